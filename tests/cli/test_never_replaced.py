"""No output is an input, or replaces what this tool did not write; what it wrote beside is not taken for an input."""

import json
import shutil
from pathlib import Path

import pytest
import rasterio
from helpers.models import save_encoder, save_model
from helpers.slides import save_slide, tissue_like

from largegen.cli import run
from largegen.slides.by_products import is_preview


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture(scope="module")
def model(tmp_path_factory, encoder) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "model", encoder, levels=3)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of a user's files, in which the commands run: a slide, and a JSON file and an image of theirs."""
    monkeypatch.chdir(tmp_path)
    save_slide(tmp_path / "roi.png", tissue_like(320, 320))
    return tmp_path


@pytest.fixture
def embed(folder, encoder, capfd):
    def call(*arguments) -> tuple[int, str]:
        capfd.readouterr()
        options = ["--encoder", f"local-dir:{encoder}", "--tile-px", 64, "--source-mpp", 0.5, "--device", "cpu"]
        code = run(["embed", *map(str, [*arguments, *options])])
        return code, capfd.readouterr().err

    return call


@pytest.fixture
def make(folder, model, capfd):
    def call(*arguments, command="generate") -> tuple[int, str]:
        capfd.readouterr()
        size = [] if command == "sample" else ["--size", 256]
        options = ["--model", model, *size, "--steps", 1, "--source-mpp", 0.5, "--cache", folder.parent / "cache"]
        options += ["--device", "cpu", "--precision", "fp32"]
        code = run([command, *map(str, [*arguments, *options])])
        return code, capfd.readouterr().err

    return call


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_preview_replaces_no_slide(folder, embed, overwrite):
    before = content(folder)
    code, error = embed("roi.png", "--out", ".", "--preview", *overwrite)
    assert code != 0 and "roi.png: is an input" in error
    assert content(folder) == before


def test_a_preview_replaces_no_image_of_others_unless_told_to(folder, embed):
    (folder / "slides").mkdir()
    shutil.move("roi.png", "slides/roi.tif")
    (folder / "roi.png").write_bytes(b"theirs")
    before = content(folder)
    code, error = embed("slides/roi.tif", "--out", ".", "--preview")
    assert code != 0 and "roi.png: exists already" in error and content(folder) == before
    assert embed("slides/roi.tif", "--out", ".", "--preview", "--overwrite")[0] == 0
    assert is_preview(folder / "roi.png")
    assert embed("slides/roi.tif", "--out", ".", "--preview")[0] == 0  # its own it replaces


def test_previews_guides_and_levels_are_not_embedded(folder, embed, make):
    shutil.move("roi.png", "slide.jpg")
    for _ in range(2):
        code, error = embed(".", "--out", ".", "--preview")
        assert code == 0, error
    assert "slide.png" in error and "previews" in error
    assert sorted(path.name for path in folder.glob("*.h5")) == ["slide.h5"]
    assert make("--ref", "slide.jpg", "--out", "a.tif", "--levels", command="zoom")[0] == 0
    assert sorted(path.name for path in folder.glob("a_*.png")) == ["a_10x.png", "a_guide.png"]
    code, error = embed(".", "--out", "second")
    assert code == 0 and "guides or levels of zoom (a_10x.png, a_guide.png)" in error
    assert sorted(path.name for path in (folder / "second").glob("*.h5")) == ["a.h5", "slide.h5"]


@pytest.mark.parametrize("how", ["itself", "link", "hard link", "spelling"])
def test_no_image_replaces_its_reference(folder, make, how):
    out = folder / "roi.png"
    if how == "link":
        (out := folder / "link.png").symlink_to("roi.png")
    elif how == "hard link":
        (out := folder / "hard.png").hardlink_to("roi.png")
    elif how == "spelling":
        (folder / "sub").mkdir()
        out = Path("sub", "..", "roi.png")
    before = content(folder)
    for command in ("generate", "zoom", "sample"):
        code, error = make("--ref", "roi.png", "--out", out, "--overwrite", command=command)
        assert code == 2 and f"{out.name}: is an input of this command" in error
    assert content(folder) == before


def test_tiles_of_a_deepzoom_reference_are_kept_whatever_the_case_of_its_suffix(folder, make):
    save_slide(folder / "ref.dz", tissue_like(320, 320))
    before = content(folder)
    for out in ("ref.dzi", "ref.DZI"):
        code, error = make("--ref", "ref.dzi", "--out", out, "--overwrite")
        assert code == 2 and "is an input" in error
    assert content(folder) == before


def test_nothing_beside_an_image_replaces_what_others_wrote(folder, make):
    theirs = {
        "a.png.json": b"{}",
        "z.tif.json": b"[1]",
        "y_guide.png": b"x",
        "w_10x.png": b"x",
        "d_files/0/0_0.jpg": b"",
    }
    for name, bytes_ in theirs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes_)
    (folder / "lost.png").symlink_to("nowhere")
    before = content(folder)
    outs = [("a.png", "generate"), ("z.tif", "zoom"), ("y.tif", "zoom"), ("w.tif", "zoom"), ("d.dzi", "generate")]
    for out, command in [*outs, ("a.png", "sample"), ("lost.png", "generate")]:
        levels = ["--levels"] if command == "zoom" else []
        code, error = make("--ref", "roi.png", "--out", out, *levels, command=command)
        assert code == 1 and "exists already" in error, (out, error)
    assert content(folder) == before
    (folder / "d_files" / "notes.txt").touch()
    code, error = make("--ref", "roi.png", "--out", "d.dzi", "--overwrite")
    assert code == 1 and "notes.txt, which is no part of a DeepZoom image" in error
    assert make("--ref", "roi.png", "--out", "a.png", "--overwrite")[0] == 0
    assert json.loads((folder / "a.png.json").read_text())["width"] == 256


def test_the_guide_is_no_input(folder, make):
    shutil.move("roi.png", "a_guide.png")
    before = content(folder)
    code, error = make("--ref", "a_guide.png", "--out", "a.tif", "--overwrite", command="zoom")
    assert code == 2 and "a_guide.png: is an input" in error and content(folder) == before


def test_what_a_killed_run_left_beside_its_image_is_replaced(folder, make):
    assert make("--ref", "roi.png", "--out", "a.png")[0] == 0
    (folder / "a.png").unlink()
    assert make("--ref", "roi.png", "--out", "a.png")[0] == 0


def test_a_run_replaces_nothing_of_others_and_no_weights(folder, encoder, capfd):
    train = ["train-vae", "roi.png", "--preset", "tiny", "--steps", "1", "--batch-size", "1", "--device", "cpu"]
    train += ["--native", "--crop-px", "64"]
    (folder / "config.json").write_text('{"mine": 1}')
    before = content(folder)
    assert run([*train, "--out", "."]) == 1
    assert "config.json: exists already" in capfd.readouterr().err and content(folder) == before


def test_a_world_file_of_others_is_kept(folder, make):
    scene = {"driver": "GTiff", "width": 320, "height": 320, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open("s.tif", "w", transform=rasterio.Affine(1, 0, 5, 0, -1, 7), **scene) as file:
        file.write(tissue_like(320, 320).transpose(2, 0, 1))
    (folder / "a.pgw").write_bytes(b"theirs")
    before = content(folder)
    code, error = make("--ref", "s.tif", "--out", "a.png", "--source-gsd", 1)
    assert code == 1 and "a.pgw: exists already" in error and content(folder) == before
    assert make("--ref", "s.tif", "--out", "a.png", "--source-gsd", 1, "--overwrite")[0] == 0
    (folder / "a.png").unlink()
    assert make("--ref", "s.tif", "--out", "a.png", "--source-gsd", 1)[0] == 0
