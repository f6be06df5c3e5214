"""The bundled model and example do what the README's first command says; the examples run."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from largegen import load_model
from largegen.cli import run
from largegen.models.directory import BUNDLED
from largegen.slides.slide import open_slide

EXAMPLE = ROOT / "examples" / "reference.tif"


def python(*arguments, cwd=None) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_bundle_is_small_and_free():
    files = [path for folder in set(BUNDLED.values()) for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.parent.name != "prior"]  # see test_bundled_prior
    students = [path for path in files if path.parent.name == "fast"]
    assert sum(path.stat().st_size for path in set(files) - set(students)) <= 75e6
    assert students and all(path.stat().st_size <= 8e6 for path in students)
    assert max(path.stat().st_size for path in files) <= 15e6
    for name, scale in (("tissue", "mpp"), ("aerial", "gsd_m")):
        info = load_model(name, "cpu").info
        assert info.name == name and info.licence == info.encoder_licence == "Apache-2.0"
        assert all(getattr(slide, scale) for slide in info.trained_on)
        card = (BUNDLED[name] / "MODEL_CARD.md").read_text(encoding="utf-8")
        for source in info.more["attribution"]:
            assert source.split(":")[0].removesuffix(".svs") in card, source


def test_the_example_is_a_small_slide_with_a_resolution():
    assert EXAMPLE.stat().st_size <= 3e6
    with open_slide(EXAMPLE) as slide:
        assert slide.mpp == pytest.approx(0.5, rel=0.01) and len(slide.levels) > 1
        assert min(slide.width, slide.height) >= 1024


def test_the_starter_keeps_to_the_layout_of_its_reference(tmp_path):
    """Each tile's colour follows the reference's, not another tile's."""
    options = ["--region", "0,0", "--size", "768", "--steps", "5", "--cache", str(tmp_path)]
    assert run(["generate", "--ref", str(EXAMPLE), "--out", str(tmp_path / "a.png"), *options]) == 0
    made = np.asarray(Image.open(tmp_path / "a.png"), float)
    with open_slide(EXAMPLE) as slide:
        real = slide.read(0, 0, 768, 768, slide.downsample_for(mag=20)).astype(float)
    made, real = (x.reshape(3, 256, 3, 256, 3).mean((1, 3)).reshape(9, 3) for x in (made, real))
    matched = np.abs(made - real).mean()
    shuffled = np.mean([np.abs(np.roll(made, k, 0) - real).mean() for k in range(1, 9)])
    assert matched < 0.5 * shuffled


def test_the_starter_zooms(tmp_path, capsys):
    """Its image agrees with its guide, and every level has samples."""
    options = ["--ref", str(EXAMPLE), "--region", "0,0", "--cache", str(tmp_path), "--device", "cpu"]
    zoom = ["zoom", "--size", "512", "--levels", "--out", str(tmp_path / "a.png"), "--json"]
    assert run([*zoom, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["guide_psnr"] > 18 and report["guide_magnification"] == "10x"
    for mag in ("20", "1.25"):
        out = tmp_path / f"{mag}.png"
        sample = ["sample", "--mag", mag, "-n", "1", "--steps", "2", "--out", str(out)]
        assert run([*sample, *options[:2], *options[4:]]) == 0 and out.exists()


def test_generation_in_memory(tmp_path):
    assert run(["embed", str(EXAMPLE), "--out", str(tmp_path)]) == 0
    program = ROOT / "examples/python/in_memory.py"
    python(program, tmp_path / "reference.h5", tmp_path / "pictures", "--tiles", "1", "2")
    names = ["image", "mirrored", "walk-0", "walk-1", "walk-2"]
    images = [Image.open(tmp_path / f"pictures/{name}.png") for name in names]
    assert {image.size for image in images} == {(512, 256)}
    assert len({image.tobytes() for image in images}) == 5


@pytest.mark.slow
def test_the_workflow_runs_in_miniature(tmp_path):
    shutil.copytree(ROOT / "examples/workflow", tmp_path / "workflow")
    largegen = f"LARGEGEN={sys.executable} -m largegen"
    make = ["make", "smoke", largegen, f"EXAMPLE={EXAMPLE}"]
    subprocess.run(make, cwd=tmp_path / "workflow", check=True, capture_output=True, timeout=600)
    assert list((tmp_path / "workflow/smoke").rglob("images/*.tif"))
