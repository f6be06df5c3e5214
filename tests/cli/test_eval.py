"""`largegen eval`, from the command line to figures, page and exit codes."""

import json
import math
import warnings

import cleanfid.fid
import numpy as np
import pytest
import torch
from helpers.disk import small_disk
from helpers.models import save_encoder, save_model
from helpers.slides import save_slide, tissue_like
from PIL import Image
from torch import nn

from largegen.cli import run
from largegen.metrics.features.networks import perceptual_network
from largegen.metrics.results import Evaluation, Figure, LevelFigures

QUICK = ("--device", "cpu", "--crop-px", 64, "--crops", 40, "--replicates", 2)


def cut(folder, count, seed, size=64):
    """A folder of squares of one H&E-like image."""
    folder.mkdir(parents=True)
    pixels, rng = tissue_like(700, 700, 5), np.random.default_rng(seed)
    for number in range(count):
        x, y = rng.integers(100, 600 - size, 2)
        Image.fromarray(pixels[y : y + size, x : x + size]).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Sets of patches, a slide, a tiny model's image of it, and a tiny encoder. Read only."""
    root = tmp_path_factory.mktemp("eval")
    save_slide(root / "slide.tif", tissue_like(700, 600), 0.5)
    encoder = save_encoder(root / "encoder")
    model = save_model(root / "model", encoder, levels=3)
    options = ["--ref", root / "slide.tif", "--model", model, "--cache", root, "--steps", 2, "--device", "cpu"]
    for command, out in (("generate", "a.png"), ("zoom", "zoomed.png")):
        more = ["--size", 256, "--out", root / out, *(["--levels"] if command == "zoom" else [])]
        assert run([command, "-q", *map(str, [*options, *more])]) == 0
    cut(root / "real", 50, 0)
    cut(root / "fake", 50, 1)
    return root


@pytest.fixture
def fd(root):
    return f"fd:local-dir:{root / 'encoder'}"


@pytest.fixture
def evaluate(root, capsys, monkeypatch):
    """Run the command in the folder of the sets: exit code, stdout, stderr."""
    monkeypatch.chdir(root)

    def call(*arguments, real="real", fake="fake") -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["eval", "-q", *map(str, ["--real", real, "--fake", fake, *QUICK, *arguments])])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def figures(evaluate):
    """The JSON object of a run, and its figures by level and name."""

    def call(*arguments, code=0, **sets) -> tuple[dict, dict]:
        found, out, err = evaluate("--json", *arguments, **sets)
        assert found == code and not err, err
        content = json.loads(out, parse_constant=pytest.fail)
        return content, {(at["level"], f["name"]): f for at in content["levels"] for f in at["figures"]}

    return call


@pytest.fixture
def fails(evaluate):
    """Run the command, which must fail with one line; gives it."""

    def call(*arguments, code=2, **sets) -> str:
        found, out, err = evaluate(*arguments, **sets)
        assert (found, out) == (code, "") and err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return call


@pytest.fixture(autouse=True)
def no_perceptual_network():
    """Call the package of VGG16 absent, so that what is computed by default does not depend on it; gives the undo."""
    perceptual_network.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("largegen.models.perceptual.find_spec", lambda _: None)
        yield patch.undo
    perceptual_network.cache_clear()


def save_inception(path):
    """A stand-in of 16 features."""
    torch.manual_seed(0)
    net = nn.Module()
    net.layers = nn.Sequential(nn.Conv2d(3, 16, 7, stride=8), nn.ReLU(), nn.AvgPool2d(36))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(net.eval()).save(str(path))
    return path


def test_by_default_all_that_can_be_had_and_a_reason_for_the_rest(figures):
    content, found = figures(real="slide.tif", fake="a.png")
    metrics = {figure["metric"] for figure in found.values()}
    assert {"fd:starter", "kid:starter", "precision-recall:starter", "seam", "embedding-similarity"} <= metrics
    assert {level for level, _ in found} == {"20x"} and all(type(f["value"]) is float for f in found.values())
    assert any(name.startswith("fd:local-dir:") for name in metrics)  # what the image was made with
    why = {name: left["why"] for left in content["left_out"] for name in left["metric"].split(", ")}
    assert why.keys() == {
        *("crop-fid", "kid", "precision-recall", "clip-fid", "guide-psnr", "fd:vgg16", "lpips"),
    }
    assert why["fd:vgg16"] == why["lpips"] and "pip install 'largegen[perceptual]'" in why["lpips"]
    assert "--inception-weights" in why["crop-fid"] and "one generated image" in why["clip-fid"]
    assert not any("\n" in line for line in [*why.values(), *content["warnings"]])
    assert any("JPEG" in line for line in content["warnings"]) and any("40 samples" in w for w in content["warnings"])
    assert found["20x", "Seam score"]["floor"] > 0


def test_json_is_strict_where_a_figure_is_infinite():
    figure = Figure("guide-psnr", "PSNR", math.inf, "higher", 1, 1, interval=(0.0, math.nan))
    content = Evaluation({}, {}, (LevelFigures("20x", (figure,)),)).as_dict()
    figure = json.loads(json.dumps(content, allow_nan=False))["levels"][0]["figures"][0]
    assert figure["value"] is None and figure["interval"] == [0.0, None]


@pytest.mark.parametrize("metrics", ["fd:starter,psnr", "fd", "kid:", "seam:starter"])
def test_an_unknown_metric_names_those_there_are(fails, metrics):
    assert "clip-fid, fd:ENCODER, embedding-similarity, seam, guide-psnr" in fails("--metrics", metrics)


@pytest.mark.parametrize(
    ("sets", "metrics", "words"),
    [
        ({"real": "slide.tif", "fake": "a.png"}, "patch-fid", "use crop-fid"),
        ({"real": "slide.tif", "fake": "a.png"}, "clip-fid", "one generated image"),
        ({"real": "slide.tif", "fake": "a.png"}, "guide-psnr", "no generated image has a guide"),
        ({}, "seam", "no larger than a crop"),
        ({}, "clip-fid", "no larger than a crop"),
        ({}, "kid", "--inception-weights"),
        ({}, "fd:vgg16", "largegen[perceptual]"),
        ({"real": "slide.tif", "fake": "a.png"}, "lpips", "largegen[perceptual]"),
        ({}, "lpips", "no larger than a crop"),
        ({}, "fd:nothing", "unknown; use one of starter"),
        ({"fake": "fake/00.png"}, "fd:starter", "one generated crop"),
    ],
)
def test_a_metric_asked_for_that_cannot_be_had_is_an_error_before_the_work(fails, monkeypatch, sets, metrics, words):
    monkeypatch.setattr("largegen.metrics.comparison.extract", lambda *_, **__: pytest.fail("worked first"))
    assert words in fails("--metrics", f"fd:starter,{metrics}", **sets)


def test_an_encoder_that_was_named_is_not_left_out(fails):
    assert "'nothing': unknown" in fails("--encoder", "nothing")
    assert "name it with --encoder" in fails("--encoder-weights", "w.pth")


def test_several_paths_follow_a_flag_and_stand_in_a_file(root, capsys, monkeypatch, fd, tmp_path):
    monkeypatch.chdir(root)
    config = tmp_path / "run.toml"
    config.write_text('crops = 40\n[eval]\nreal = ["real", "fake"]\nfake = ["fake", "real/01.png"]')
    fakes = ["--fake", "fake", "real/01.png"]
    for sets in (
        ["--real", "real", "fake", *fakes],
        ["--real=real", "fake", *fakes],
        ["--real", "real", *fakes, "--real", "fake"],
        ["--config", config],
    ):
        assert run(["eval", *map(str, [*sets, "--dry-run", "--metrics", fd, "--crop-px", 64])]) == 0
        level = json.loads(capsys.readouterr().out)["levels"][0]
        assert (level["real"]["pictures"], level["fake"]["pictures"]) == (100, 51)


def test_fid_is_clean_fids_and_only_called_so_with_its_weights(figures, evaluate, root, tmp_path):
    weights = save_inception(tmp_path / "stand-in.pt")
    _, found = figures("--metrics", "patch-fid", "--inception-weights", weights, "--crops", 50)
    (figure,) = found.values()
    layers = torch.jit.load(weights).layers
    options = {"mode": "clean", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    expected = cleanfid.fid.compute_fid(
        *(str(root / name) for name in ("real", "fake")),
        custom_feat_extractor=lambda x: layers((x - 128) / 128).flatten(1),
        **options,
    )
    assert figure["value"] == pytest.approx(expected, rel=1e-3) and figure["value"] > 0
    _, found = figures("--metrics", "patch-fid,kid", "--inception-weights", weights)
    assert {name for _, name in found} == {"Fréchet distance, Inception-v3", "Kernel distance, Inception-v3"}
    _, table, _ = evaluate("--metrics", "patch-fid", "--inception-weights", weights)
    assert "Fréchet distance, Inception-v3" in table and "FID" not in table


def test_figures_depend_on_neither_batches_nor_threads(figures, fd):
    runs = [
        figures("--metrics", f"{fd},seam,embedding-similarity", *more, real="slide.tif", fake="a.png")[1]
        for more in ((), ("--batch-size", 1), ("--batch-size", 7, "--workers", 4), ("--workers", 0))
    ]
    for other in runs[1:]:
        for at, figure in runs[0].items():
            for name in ("value", "floor", "infinity", "standard_error"):
                expected = figure[name] and pytest.approx(figure[name], rel=1e-6, abs=1e-9)
                assert other[at][name] == expected, (at, name)


def test_saved_statistics_stand_for_the_real_set(figures, fails, fd, root, tmp_path):
    metrics = ",".join(f"{kind}{fd.removeprefix('fd')}" for kind in ("fd", "kid", "precision-recall"))
    sets, saved = {"real": "slide.tif", "fake": "a.png"}, tmp_path / "stats.npz"
    _, first = figures("--metrics", metrics, "--save-stats", saved, **sets)
    content, again = figures("--metrics", metrics, real=saved, fake="a.png")
    assert first == again and len(first) == 4 and content["real"]["crops"] == 40
    sets = {"real": saved, "fake": "a.png"}
    assert "stats.npz holds no statistics of encoder:resnet10t" in fails("--metrics", "fd:starter", **sets)
    assert "side_px is 64 in one and 32 in the other" in fails("--metrics", fd, "--crop-px", 32, **sets)
    named = "--encoder", fd.removeprefix("fd:")
    for options in (("--metrics", fd), named):
        assert 'level is "20x" in one and "10x" in the other' in fails(*options, "--mag", 10, **sets)
    assert "saved statistics stand for the real set alone" in fails("--metrics", fd, fake=saved)
    assert "a whole real set" in fails("--metrics", fd, "--real", "real", **sets)
    assert "needs a metric that has statistics" in fails("--metrics", "seam", "--save-stats", "b.npz")
    _, both = figures(*named, "--fake", "zoomed_10x.png", **sets)  # of one level they hold statistics
    assert {level for level, name in both if name.startswith("Fr")} == {"20x"}
    _, rest = figures(**sets)  # what the file does not hold is left out
    assert {name for _, name in rest} > {"Seam score"} and ("20x", "Fréchet distance, starter") not in rest


def test_a_set_has_no_distance_from_itself(figures, fd, tmp_path):
    kinds = fd, fd.replace("fd", "precision-recall", 1)
    _, found = figures("--metrics", ",".join(kinds), fake="real")
    distance, precision, recall = (figure["value"] for figure in found.values())
    assert distance == pytest.approx(0, abs=1e-6) and precision == recall == 1
    table = tmp_path / "pairs.csv"
    table.write_text("generated,real\n" + "".join(f"{image},{image}\n" for image in save_images(tmp_path, 2)))
    options = "--metrics", "embedding-similarity", "--pairs", table
    _, found = figures(*options, "--encoder", fd.removeprefix("fd:"), real=tmp_path / "0.png", fake=tmp_path)
    assert [figure["value"] for figure in found.values()] == [pytest.approx(1, abs=1e-6)]


def test_a_yardstick_that_needs_no_download(figures, no_perceptual_network, tmp_path):
    pytest.importorskip("stlpips_pytorch", reason="carries the weights: install largegen[perceptual]")
    no_perceptual_network()
    sets = {"real": "slide.tif", "fake": "a.png"}
    _, found = figures("--metrics", "fd:vgg16,lpips", "--no-tissue-filter", "--crops", 8, **sets)
    assert {name for _, name in found} == {"Fréchet distance, VGG16", "ST-LPIPS, VGG16"}  # neither is called FID
    assert found["20x", "Fréchet distance, VGG16"]["value"] > 100 > 1 > found["20x", "ST-LPIPS, VGG16"]["value"] > 0.01
    assert found["20x", "ST-LPIPS, VGG16"]["fake_count"] == 16  # tiles of 64 px
    table = tmp_path / "pairs.csv"
    table.write_text("generated,real\n" + "".join(f"{image},{image}\n" for image in save_images(tmp_path, 2)))
    _, found = figures("--metrics", "lpips", "--pairs", table, real=tmp_path / "0.png", fake=tmp_path)
    assert [figure["value"] for figure in found.values()] == [0]


def save_images(folder, count, size=512):
    return [save_slide(folder / f"{number}.png", tissue_like(size, size, number)).name for number in range(count)]


def test_what_spoils_a_distance_is_said(figures, fd, root, tmp_path):
    content, _ = figures("--metrics", fd)
    assert [line.split(";")[0] for line in content["warnings"]] == [f"pixels, {fd[3:]}: 40 samples"]
    jpeg = [Image.open(path).save(tmp_path / f"{path.stem}.jpg") for path in sorted((root / "fake").iterdir())]
    content, _ = figures("--metrics", fd, fake=tmp_path)
    assert len(jpeg) == content["fake"]["pictures"] == 50 and content["fake"]["compression"] == "JPEG"
    assert content["warnings"][0].startswith("the generated images are JPEG-compressed and the real ones are not")
    content, _ = figures("--metrics", fd, "--crops", 80, real="a.png", fake="a.png")
    assert any("have room for 16 crops side by side, so 80 of them overlap" in line for line in content["warnings"])


def test_zoomed_levels_are_compared_each_at_its_own(figures, fails, monkeypatch):
    zoomed, metrics = ("--fake", "zoomed_10x.png"), "fd:starter,guide-psnr,seam"
    all_of_it = "--metrics", metrics, "--no-tissue-filter"  # what an untrained model makes looks like no tissue
    content, found = figures(*all_of_it, *zoomed, real="slide.tif", fake="zoomed.png")
    by_level = {level: {name for at, name in found if at == level} for level, _ in found}
    assert by_level == {
        "20x": {"Fréchet distance, starter", "PSNR with the guide, dB", "Seam score"},
        "10x": {"Fréchet distance, starter"},
    }
    assert {left["metric"] for left in content["left_out"]} == {"guide-psnr", "seam"}
    assert found["20x", "PSNR with the guide, dB"]["value"] > 5
    fails("--metrics", "guide-psnr", real="slide.tif", fake="zoomed_10x.png")
    monkeypatch.setattr("largegen.metrics.image_figures.guide_psnr_of_file", lambda *_: math.inf)
    _, found = figures("--metrics", "guide-psnr", real="slide.tif", fake="zoomed.png")
    figure = found["20x", "PSNR with the guide, dB"]
    assert figure["value"] is None and "1 of 1 show their guide exactly" in figure["note"]


def test_the_page_has_every_figure_and_nothing_is_done_where_it_cannot_be_written(
    evaluate, fails, fd, tmp_path, monkeypatch
):
    page, metrics = tmp_path / "new" / "report.html", ("--metrics", f"{fd},seam")
    sets = {"real": "slide.tif", "fake": "a.png"}
    code, table, _ = evaluate(*metrics, "--report", page, **sets)
    text = page.read_text()
    assert code == 0 and "Seam score" in table and "Seam score" in text and f"Fréchet distance, {fd[3:]}" in text
    monkeypatch.setattr("largegen.metrics.sets.sets.find_images", lambda *_: pytest.fail("worked first"))
    assert "--overwrite" in fails(*metrics, "--report", page, code=1)
    assert "must end in .html" in fails(*metrics, "--report", "report.pdf")
    assert "must end in .npz" in fails(*metrics, "--save-stats", "stats.npy")
    assert "is a directory" in fails(*metrics, "--report", make(tmp_path / "d.html"), "--overwrite", code=1)
    assert "cannot be written in" in fails(*metrics, "--report", page / "report.html", code=1)
    assert "an interval takes two or more" in fails(*metrics, "--replicates", 1)


def make(folder):
    folder.mkdir()
    return folder


def test_a_full_disk_costs_the_page_and_not_the_figures(evaluate, fd, tmp_path):
    with small_disk(tmp_path / "disk", 16) as disk:
        code, table, err = evaluate("--metrics", fd, "--report", disk / "report.html")
        assert code == 1 and "Fréchet distance" in table and "no space left" in err and err.count("\n") == 1
        assert not list(disk.iterdir())


def test_a_dry_run_says_what_would_be_done(evaluate, monkeypatch, tmp_path):
    monkeypatch.setattr("largegen.metrics.comparison.load_network", lambda *_: pytest.fail("loaded a network"))
    code, out, _ = evaluate("--dry-run", "--report", tmp_path / "a.html", "--save-stats", tmp_path / "a.npz")
    (level,) = json.loads(out)["levels"]
    assert code == 0 and level["real"] == level["fake"] == {"pictures": 50, "crops": 40}
    assert level["metrics"][0] == "patch-fid" and not list(tmp_path.iterdir())
