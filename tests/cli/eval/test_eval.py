"""`largegen eval`, from the command line to figures, page and exit codes."""

import json
import math

import pytest
from helpers.disk import small_disk

from largegen.cli import run
from largegen.metrics.results import Evaluation, Figure, LevelFigures

pytestmark = pytest.mark.usefixtures("no_perceptual_network")


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
