"""The figures of `largegen eval`: what they equal, and what they depend on."""

import math
import warnings

import cleanfid.fid
import pytest
import torch
from helpers.slides import save_slide, tissue_like
from PIL import Image
from torch import nn

pytestmark = pytest.mark.usefixtures("no_perceptual_network")


def save_inception(path):
    """A stand-in of 16 features."""
    torch.manual_seed(0)
    net = nn.Module()
    net.layers = nn.Sequential(nn.Conv2d(3, 16, 7, stride=8), nn.ReLU(), nn.AvgPool2d(36))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(net.eval()).save(str(path))
    return path


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
                # Standard errors are of similarities near 1, of which float32 knows no more than 6e-8.
                expected = figure[name] and pytest.approx(figure[name], rel=1e-6, abs=1e-8)
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
