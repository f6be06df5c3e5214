"""What an evaluation is asked for: which images, metrics, networks and crops, and which files it leaves.

Imports nothing heavy, as options are made of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from largegen.errors import InputError
from largegen.metrics.catalogue import CATALOGUE
from largegen.metrics.report.links import ViewerLinks
from largegen.models.encoder_registry import ENCODER_HELP, ENCODER_WEIGHTS
from largegen.runtime.device import resolve_device
from largegen.runtime.outputs import check_writable
from largegen.runtime.setting import SEED, Setting
from largegen.slides.resolution import UNKNOWN, Resolution

if TYPE_CHECKING:
    import torch


STARTER = "starter"  # the bundled encoder
VGG = "vgg16"  # the network of perceptual distances, which fd and its like take in an encoder's place
NO_STATISTICS = "`save_stats`: needs a metric that has statistics, such as crop-fid or fd:starter"
METRIC_NAMES = tuple(f"{name}:ENCODER" if kind.spaces == ("encoder",) else name for name, kind in CATALOGUE.items())


@dataclass(frozen=True)
class Metric:
    """A metric that is asked for."""

    name: str  # as it is given: crop-fid, fd:uni_v1
    kind: str  # crop-fid, fd
    network: str | None  # whose features it compares, as networks.load_network names it; None for single images


def parse_metric(text: str) -> Metric:
    """Parse `crop-fid`, `kid`, `kid:starter`, `fd:uni_v1`, `fd:vgg16`... Raises InputError for what is no metric."""
    kind, colon, encoder = text.partition(":")
    spaces = CATALOGUE[kind].spaces if kind in CATALOGUE else ()
    if encoder and "encoder" in spaces:
        return Metric(text, kind, VGG if encoder == VGG else f"encoder:{encoder}")
    own = [space for space in spaces if space != "encoder"]
    if kind in CATALOGUE and not colon and (own or not spaces):
        return Metric(text, kind, own[0] if own else None)
    both = " and ".join(name for name, kind in CATALOGUE.items() if "encoder" in kind.spaces and len(kind.spaces) > 1)
    raise InputError(f"`metrics` {text}: unknown; use {', '.join(METRIC_NAMES)}; {both} take :ENCODER as well")


@dataclass(frozen=True)
class SetsRequest:
    """What is to be compared with what."""

    real: Sequence[Path] = ()  # images, slides, folders, embedding files, or one .npz of statistics
    fake: Sequence[Path] = ()
    target: Resolution = UNKNOWN  # to compare at; none: the generated images' own, see images.resolution_groups
    real_source: Resolution = UNKNOWN  # of the real images, where their metadata lack it
    fake_source: Resolution = UNKNOWN
    # see pairs.given_pairs
    pairs: Annotated[
        Path | None,
        Setting(
            "CSV of generated,real[,x,y]: the real image, and the place on it, that each was generated from.",
            unset="from the images' metadata",
        ),
    ] = None
    tissue_filter: Annotated[
        bool,
        Setting("Also take crops of empty glass; by default crops of slides, and so of generated images, show tissue."),
    ] = True
    keep_going: Annotated[bool, Setting("Leave out damaged images instead of stopping; the exit code is then 3.")] = (
        False
    )


@dataclass(frozen=True)
class CropSettings:
    """Which crops of a set are compared."""

    count: Annotated[int, Setting("Crops of each set and magnification.", min=2)] = 10_000
    size_px: Annotated[int, Setting("Side of a crop in pixels.", min=16)] = 256  # at the working resolution
    placement: Literal["random", "grid"] = "random"  # anywhere, also over one another; or side by side
    seed: Annotated[int, SEED] = 0

    def check(self) -> None:
        """Raise InputError for settings that make no sense."""
        if self.count < 1 or self.size_px < 1:
            raise InputError(f"{self.count} crops of {self.size_px} px: both must be positive")
        if self.placement not in ("random", "grid"):
            raise InputError(f"crops placed {self.placement}: use random or grid")


@dataclass(frozen=True)
class EvaluationConfig:
    """Which metrics are computed, by which networks, of which crops."""

    crops: CropSettings = CropSettings()
    metrics: tuple[Metric, ...] = ()  # none: all that inputs and weights at hand allow
    encoder: Annotated[
        str | None,
        Setting(
            f"Encoder of fd, kid and precision-recall. {ENCODER_HELP}",
            unset="starter, and the one in the images' metadata",
        ),
    ] = None
    encoder_weights: Annotated[Path | None, ENCODER_WEIGHTS] = None
    inception_weights: Annotated[
        Path | None, Setting("inception-2015-12-05.pt, for FID.", unset="~/.cache/largegen, or downloaded")
    ] = None
    clip_weights: Annotated[
        Path | None, Setting("Weights of CLIP ViT-B/32, for CLIP FID.", unset="the hub's, by its own cache")
    ] = None
    replicates: Annotated[int, Setting("Bootstrap resamplings per confidence interval; 0 for no intervals.", min=0)] = (
        20
    )
    batch_size: Annotated[int, Setting("Crops per batch.", min=1)] = 32
    workers: Annotated[int, Setting("Threads that read crops ahead of the network.", min=0)] = 2
    device: Annotated[str, Setting("auto, cpu, cuda, cuda:N or mps.")] = "auto"

    @property
    def weights(self) -> dict[str, Path | None]:
        """The files of weights by the kind of their network."""
        return {"inception": self.inception_weights, "clip": self.clip_weights, "encoder": self.encoder_weights}

    @property
    def torch_device(self) -> "torch.device":
        """Where networks compute. Raises InputError for a device that is not there."""
        return resolve_device(self.device)

    def check(self) -> None:
        """Raise InputError for settings that do not go together."""
        if self.replicates == 1:
            raise InputError("`replicates` 1: an interval takes two or more; 0 is for none")
        encoders = {metric.network for metric in self.metrics if (metric.network or "").startswith("encoder:")}
        encoders |= {f"encoder:{self.encoder}"} if self.encoder else set()
        if self.encoder_weights and (len(encoders) > 1 or not (encoders or self.metrics)):
            raise InputError("`encoder_weights`: are of one encoder; name it with `encoder`, and no other in `metrics`")

    def names(self, metric: Metric) -> bool:
        """Tell whether the metric was asked for, or its network, or the file of its weights."""
        kind = (metric.network or "").partition(":")[0]
        return bool(self.metrics or self.weights.get(kind) or (kind == "encoder" and self.encoder))


@dataclass(frozen=True)
class EvaluationOutputs:
    """The files that an evaluation leaves beside its figures."""

    report: Annotated[Path | None, Setting("Also write a report with images, as HTML.")] = None
    save_stats: Annotated[Path | None, Setting("Save the real set's statistics to this .npz, for --real later.")] = None
    viewer: Annotated[
        Path | None,
        Setting("With a report: folder of `largegen view --export`, to which generated crops link by their place."),
    ] = None
    overwrite: Annotated[bool, Setting("Replace an existing output.")] = False

    def check(self, real: Sequence[Path], config: EvaluationConfig, made: Sequence[Path] = ()) -> None:
        """Check, before the work, that the files can be written and filled; those that this job has `made` may be left.

        Raises:
            InputError: Where a file has the wrong suffix or could not be filled.
            OutputError: Where one cannot be written, or is there and `overwrite` is False.
        """
        if self.save_stats and any(path.suffix.lower() == ".npz" for path in real):
            raise InputError("`save_stats`: the real set is saved statistics already")
        for name, path, suffix in (("report", self.report, ".html"), ("save_stats", self.save_stats, ".npz")):
            if path is not None:
                if path.suffix.lower() != suffix:
                    raise InputError(f"`{name}` {path}: the name must end in {suffix}")
                check_writable(path, self.overwrite or path in made, name)
        if self.viewer and not self.report:
            raise InputError("`viewer`: only with `report`, whose crops link to it")
        if self.viewer and self.report:
            ViewerLinks.open(self.viewer, self.report)
        if self.save_stats and config.metrics and not any(metric.network for metric in config.metrics):
            raise InputError(NO_STATISTICS)
