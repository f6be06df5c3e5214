"""Every metric: what it is called, in which networks' features it compares, what it means and who proposed it."""

from typing import NamedTuple

from largegen.metrics.results import Evaluation

HEUSEL = "Heusel et al. 2017, arXiv:1706.08500"
PARMAR = "Parmar et al. 2022 (clean-fid), arXiv:2104.11222"
BINKOWSKI = "Bińkowski et al. 2018, arXiv:1801.01401"
KYNKAANNIEMI = "Kynkäänniemi et al. 2019, arXiv:1904.06991"
CHONG = "Chong & Forsyth 2020, arXiv:1911.07023"
GHILDYAL = "Ghildyal & Liu 2022, arXiv:2207.13686"
GRAIKOS = "Graikos et al. 2024, arXiv:2312.07330"


class MetricKind(NamedTuple):
    """A kind of metric, which `metrics` names: alone, or with `:ENCODER`."""

    title: str  # for people
    meaning: str  # in a sentence
    source: str  # who proposed it
    spaces: tuple[str, ...] = ()  # "inception", "clip", "encoder" (any, by its name); none: it looks at single images


CATALOGUE = {
    "patch-fid": MetricKind(
        "Patch FID",
        "Fréchet distance between the Gaussians fitted to the Inception-v3 features of real and of generated "
        "patches; 0 would be two equal distributions.",
        f"{HEUSEL}; {PARMAR}",
        ("inception",),
    ),
    "crop-fid": MetricKind(
        "Crop FID",
        "FID over crops cut from the whole large images, so that what lies between the patches counts as well.",
        f"{GRAIKOS}; {HEUSEL}; {PARMAR}",
        ("inception",),
    ),
    "kid": MetricKind(
        "KID",
        "Squared maximum mean discrepancy of features (Inception-v3's, or the encoder's that it names) under "
        "a cubic kernel: unbiased by the number of samples, so it may fall slightly below 0.",
        BINKOWSKI,
        ("inception", "encoder"),
    ),
    "precision-recall": MetricKind(
        "Precision and recall",
        "Share of generated samples that fall among the real ones in feature space (fidelity), and of real "
        "ones among the generated (variety).",
        KYNKAANNIEMI,
        ("inception", "encoder"),
    ),
    "clip-fid": MetricKind(
        "CLIP FID",
        "Fréchet distance over the CLIP features of whole images, each shrunk to the network's input: "
        "large-scale structure, no cells.",
        f"{GRAIKOS}; {PARMAR}",
        ("clip",),
    ),
    "fd": MetricKind(
        "Fréchet distance",
        "The distance of FID in the features of another encoder, one that knows tissue or land where "
        "Inception-v3 knows photographs; not comparable between encoders.",
        HEUSEL,
        ("encoder",),
    ),
    "embedding-similarity": MetricKind(
        "Embedding similarity",
        "Mean cosine between the embedding that a patch was generated from and the embedding of what was generated.",
        GRAIKOS,
    ),
    "seam": MetricKind(
        "Seam score",
        "How much the image steps across the lines where patches met, relative to everywhere else; 1 is no seam.",
        "largegen",
    ),
    "guide-psnr": MetricKind(
        "Guide PSNR",
        "PSNR between a zoomed image, shrunk to its guide's size, and that guide.",
        "",
    ),
    "lpips": MetricKind(
        "ST-LPIPS",
        "How unlike a generated tile and the real one in its place look to VGG16, whose layers were weighted "
        "to agree with people; 0 is equal.",
        GHILDYAL,
    ),
}

INTERVAL = (
    "95 % interval",
    "Where the figure falls when the samples are drawn again from those at hand: bootstrap.",
    "",
)
ERROR = ("Standard error", "Standard deviation that the estimate would have over fresh samples.", "")
FLOOR = (
    "Floor",
    "The same figure between two random halves of the real samples: about what a perfect generator would get. A "
    "Fréchet distance comes out a little high there, since halves are smaller samples.",
    "",
)
INFINITY = (
    "Extrapolated to infinity",
    "The figure at infinitely many samples, from how it falls as their number grows; compare this between "
    "evaluations of different sizes.",
    CHONG,
)


def explanations(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """List term, meaning and source (may be empty) of every metric and qualifier that the evaluation shows."""
    figures = [figure for level in evaluation.levels for figure in level.figures]
    kinds = dict.fromkeys(figure.metric.partition(":")[0] for figure in figures)
    found: list[tuple[str, str, str]] = [
        (kind.title, kind.meaning, kind.source) for kind in map(CATALOGUE.__getitem__, kinds)
    ]
    for entry, values in (
        (INTERVAL, (figure.interval for figure in figures)),
        (ERROR, (figure.standard_error for figure in figures)),
        (FLOOR, (figure.floor for figure in figures)),
        (INFINITY, (figure.infinity for figure in figures)),
    ):
        if any(value is not None for value in values):
            found.append(entry)
    return found
