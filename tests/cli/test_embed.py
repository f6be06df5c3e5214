"""`largegen embed`, from the command line to the embedding file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import assert_one_line

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile


def test_embed_says_what_it_wrote(embed, slide_path, tmp_path):
    code, out, _ = embed(slide_path)
    file = EmbeddingFile(tmp_path / "out" / "slide.h5")
    assert code == 0 and out == f"{file.path}: {file.count} tiles x 16\n"
    assert file.coords_attrs["target_magnification"] == 20 and file.settings.downsample == 1.0
    assert file.settings.encoder_licence == "CC-BY-4.0"


def test_embed_json_is_one_object_on_stdout(embed, slide_path, tmp_path):
    code, out, _ = embed(slide_path, "--json", "--preview", "--mpp", "1.0", "--overlap", 64)
    report = json.loads(out)
    assert code == 0 and report["licence"] == "CC-BY-4.0"
    (result,) = report["slides"]
    file = EmbeddingFile(result["file"])
    assert result["tiles"] == file.count and file.settings.overlap_px == 64
    assert file.settings.downsample == 2.0 and "target_magnification" not in file.coords_attrs
    assert Path(result["preview"]).read_bytes().startswith(b"\x89PNG")


def test_dry_run_writes_nothing_and_estimates(embed, slide_path, tmp_path):
    code, out, _ = embed(slide_path, "-n", "--tile-px", 128)
    report = json.loads(out)
    assert code == 0 and not (tmp_path / "out").exists()
    estimate = report["slides"][0]
    embed(slide_path, "--tile-px", 128)
    assert estimate["tiles"] == EmbeddingFile(tmp_path / "out" / "slide.h5").count
    assert estimate["disk_mb"] * 1e6 == pytest.approx(estimate["tiles"] * (16 * 4 + 16), abs=1000)
    assert estimate["seconds"] >= 0 and estimate["memory_mb"] > 0
    assert report["settings"]["tile_px"] == 128


def test_no_tissue_filter_takes_every_tile(embed, slide_path, tmp_path):
    embed(slide_path, "--no-tissue-filter")
    assert read_tissue(tmp_path).all()
    embed(slide_path, "--overwrite", "--tissue-threshold", "0.3")
    assert not read_tissue(tmp_path).all()


def read_tissue(tmp_path) -> np.ndarray:
    return EmbeddingFile(tmp_path / "out" / "slide.h5").grid().tissue


def test_a_scene_is_embedded_at_its_own_resolution(embed, scene_path, tmp_path):
    assert embed(scene_path)[0] == 0
    assert EmbeddingFile(tmp_path / "out" / "scene.h5").settings.downsample == 1.0
    assert embed(scene_path, "--overwrite", "--gsd", "10", "--tile-px", 64)[0] == 0
    assert EmbeddingFile(tmp_path / "out" / "scene.h5").settings.downsample == 2.0


def test_a_slide_without_resolution_names_the_flags(embed, make_slide):
    path = make_slide(700, 600, mpp=None, name="unknown.svs")
    code, out, err = embed(path)
    assert code == 2 and out == ""
    assert_one_line(err, "unknown.svs", "mpp", "--source-mpp", "--source-mag")
    assert embed(path, "--source-mag", "20")[0] == 0


def test_done_is_kept_and_other_settings_are_refused(embed, slide_path, tmp_path):
    embed(slide_path)
    before = (tmp_path / "out" / "slide.h5").stat().st_mtime_ns
    code, _, err = embed(slide_path)
    assert code == 0 and "kept" in err
    code, _, err = embed(slide_path, "--mag", "10")
    assert code == 1
    assert_one_line(err, "slide.h5", "downsample", "--overwrite")
    assert (tmp_path / "out" / "slide.h5").stat().st_mtime_ns == before
    assert embed(slide_path, "--mag", "10", "--overwrite")[0] == 0


def truncated(path: Path, make_slide) -> None:
    content = make_slide(1300, 1000, name="whole.svs").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def glass(path: Path, make_slide) -> None:
    from helpers.slides import save_slide

    save_slide(path, np.full((600, 700, 3), 243, np.uint8), 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, ["bad.svs"]),
        (lambda path, _: path.write_text("not a slide"), ["bad.svs"]),
        (lambda path, _: path.write_bytes(b""), ["bad.svs", "empty"]),
        (lambda path, _: path.mkdir(), ["bad.svs", "no slides"]),
        (lambda path, _: None, ["bad.svs", "no such"]),
        (glass, ["bad.svs", "tissue", "--tissue-threshold", "--no-tissue-filter"]),
    ],
    ids=["truncated", "text", "zero bytes", "empty directory", "missing", "no tissue"],
)
def test_bad_input_is_one_line_and_leaves_nothing(embed, make_slide, tmp_path, make, words):
    make(tmp_path / "bad.svs", make_slide)
    code, out, err = embed(tmp_path / "bad.svs")
    assert code == 2 and out == ""
    assert_one_line(err, *words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_keep_going_does_the_others_and_says_3(embed, slide_path, tmp_path):
    (tmp_path / "broken.svs").write_text("not a slide")
    code, _, err = embed(tmp_path / "broken.svs", slide_path)
    assert code == 2 and not list((tmp_path / "out").glob("*.h5"))
    assert_one_line(err, "broken.svs")
    code, out, err = embed(tmp_path / "broken.svs", slide_path, "--keep-going", "--json")
    assert code == 3 and "slide.h5" not in err
    assert_one_line(err.splitlines(keepends=True)[-1], "broken.svs")
    first, second = json.loads(out)["slides"]
    assert "broken.svs" in first["error"] and Path(second["file"]).is_file()


def test_a_table_of_slides_gives_each_its_options(embed, make_slide, tmp_path):
    unknown = make_slide(700, 600, mpp=None, name="unknown.svs")
    (tmp_path / "slides.csv").write_text(f"slide,source-mag,no-tissue-filter\n{unknown},20,yes\n{unknown},,\n")
    code, _, err = embed(tmp_path / "slides.csv")
    assert code == 2 and "line 2 and" in err and "line 3" in err  # of one name
    (tmp_path / "slides.csv").write_text(f"slide,source-mag,no-tissue-filter\n{unknown},20,yes\n")
    code, out, _ = embed(tmp_path / "slides.csv")
    file = EmbeddingFile(tmp_path / "out" / "unknown.h5")
    assert code == 0 and out == f"{file.path}: 4 tiles x 16\n"
    code, out, _ = embed(tmp_path / "slides.csv", "--json")
    assert code == 0 and json.loads(out)["slides"][0]["tiles"] == 4


def test_two_slides_of_one_name_are_refused(embed, make_slide):
    code, _, err = embed(make_slide(600, 600, name="same.tif"), make_slide(600, 600, name="same.svs"))
    assert code == 2
    assert_one_line(err, "same.tif", "same.svs")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--encoder", "no_such_network"], ["no_such_network", "uni_v1"]),
        (["--encoder-weights", "absent.safetensors"], ["absent.safetensors"]),
        (["--device", "quantum"], ["--device quantum"]),
        (["--precision", "fp8"], ["--precision fp8"]),
        (["--tile-px", "4096"], ["smaller than one tile"]),
        (["--overlap", "256"], ["overlap"]),
    ],
)
def test_bad_options_are_one_line(encoder, slide_path, tmp_path, capfd, option, words):
    arguments = ["embed", str(slide_path), "--out", str(tmp_path / "o"), "--encoder", encoder, *option]
    assert run(arguments) == 2
    assert_one_line(capfd.readouterr().err, *words)


def test_code_in_the_encoder_weights_is_not_run(encoder, slide_path, tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "evil"), "w")

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    arguments = ["embed", str(slide_path), "--out", str(tmp_path / "o"), "--encoder", encoder]
    assert run([*arguments, "--encoder-weights", str(tmp_path / "w.pth")]) == 2
    assert_one_line(capfd.readouterr().err, "w.pth: holds no weights")
    assert not (tmp_path / "evil").exists()


def test_a_hub_that_cannot_be_had_is_one_line(slide_path, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run(["embed", str(slide_path), "--out", str(tmp_path / "o"), "--encoder", "uni_v1"]) == 1
    assert_one_line(capfd.readouterr().err, "https://huggingface.co/MahmoodLab/UNI", "--encoder-weights")


def test_the_real_slide_without_resolution(shared, embed, tmp_path):
    path = shared / "data" / "TCGA-CR-7395-01A-01-TS1.svs"
    code, _, err = embed(path)
    assert code == 2
    assert_one_line(err, "--source-mpp", "--source-mag")
    assert embed(path, "--source-mag", "10", "--mag", "2.5")[0] == 0
    assert EmbeddingFile(tmp_path / "out" / f"{path.stem}.h5").count > 5
