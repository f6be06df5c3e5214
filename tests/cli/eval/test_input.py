"""`largegen eval` on damaged, strange and too little input: one line, and the exit code that says how bad it is."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from helpers.models import save_encoder
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.cli import run
from largegen.models.encoder import Encoder

SIZE = 64


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A folder of 50 patches, lossless. Read only."""
    folder, rng = tmp_path_factory.mktemp("patches"), np.random.default_rng(0)
    pixels = tissue_like(700, 700)
    for number in range(50):
        x, y = rng.integers(100, 600 - SIZE, 2)
        Image.fromarray(pixels[y : y + SIZE, x : x + SIZE]).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'a')}"


@pytest.fixture
def copy(patches, tmp_path):
    """A copy of the patches for a test to spoil, in a folder whose name has spaces and letters of all kinds."""
    return shutil.copytree(patches, tmp_path / "erzeugte Bilder, größe 64 µm")


@pytest.fixture
def evaluate(encoder, capsys):
    """Run the command with the Fréchet distance alone: exit code, JSON object, and stderr."""

    def call(real, fake, *more, metrics="fd") -> tuple[int, dict, str]:
        capsys.readouterr()
        names = ",".join(
            f"{name}:{encoder}" if name in ("fd", "kid", "precision-recall") else name for name in metrics.split()
        )
        options = ["--metrics", names, "--crop-px", SIZE, "--crops", 50, "--replicates", 2, "--device", "cpu"]
        code = run(["eval", "-q", "--json", *map(str, ["--real", real, "--fake", fake, *options, *more])])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


@pytest.fixture
def fails(evaluate):
    def call(*arguments, code=2, **options) -> str:
        found, content, err = evaluate(*arguments, **options)
        assert (found, content) == (code, {}) and err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return call


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def values(content):
    return [figure["value"] for level in content["levels"] for figure in level["figures"]]


@pytest.mark.parametrize(
    "spoil", [truncate, lambda path: path.write_text("no image"), lambda path: path.write_bytes(b"")]
)
def test_a_damaged_image_is_an_error_or_left_out(evaluate, fails, patches, copy, spoil):
    spoil(copy / "07.png")
    assert "07.png: " in fails(patches, copy)
    code, content, err = evaluate(patches, copy, "--keep-going")
    assert code == 3 and err == "" and values(content)[0] > 0
    assert content["levels"][0]["figures"][0]["fake_count"] == 49
    assert next(line for line in content["warnings"] if "07.png" in line).startswith("left out: ")


def test_damage_that_only_images_as_a_whole_show_is_left_out_too(evaluate, fails, tmp_path):
    reals, fakes = tmp_path / "real", tmp_path / "fake"
    for folder in (reals, fakes):
        folder.mkdir()
        for number in range(3):
            save_slide(folder / f"{number}.png", tissue_like(512, 512, number))
    table = tmp_path / "pairs.csv"
    table.write_text("generated,real\n" + "".join(f"fake/{n}.png,real/{n}.png\n" for n in range(3)))
    options = {"metrics": "seam embedding-similarity"}
    truncate(fakes / "1.png"), truncate(reals / "2.png")
    assert "line 3: " in fails(reals, fakes, "--pairs", table, **options)
    code, content, _ = evaluate(
        reals, fakes, "--pairs", table, "--keep-going", "--report", tmp_path / "a.html", **options
    )
    seam, similarity = content["levels"][0]["figures"]
    assert code == 3 and (seam["fake_count"], seam["real_count"]) == (2, 1)
    assert similarity["value"] == pytest.approx(1) and (tmp_path / "a.html").exists()
    assert sum(line.startswith("left out: ") for line in content["warnings"]) >= 2


def test_sets_that_are_not_there_are_named(fails, patches, tmp_path):
    assert f"{tmp_path}: no images in this directory" in fails(patches, tmp_path)
    assert "gone: no such file or directory" in fails(tmp_path / "gone", patches)
    assert "there is one generated crop" in fails(patches, patches / "00.png")
    for more in ((), ("--keep-going",)):
        assert "smaller than a crop of 65 px" in fails(patches, patches, "--crop-px", 65, *more)


def test_too_few_samples_cost_the_figures_that_they_do_not_allow(evaluate, fails, patches, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for number in range(3):
        shutil.copy(patches / f"0{number}.png", few)
    code, content, _ = evaluate(few, patches)
    (figure,) = content["levels"][0]["figures"]
    assert code == 0 and figure["floor"] is None and figure["infinity"] is None
    for kind in ("kid", "precision-recall"):
        assert "there are 3 samples on one side, and this metric takes 4 or more" in fails(
            few, patches, metrics=f"fd {kind}"
        )
    shutil.copy(patches / "03.png", few)
    code, content, _ = evaluate(few, patches, metrics="kid precision-recall")
    assert code == 0 and len(values(content)) == 3 and content["levels"][0]["figures"][0]["floor"] is None


def test_images_of_every_kind_are_read(evaluate, patches, copy):
    for number, mode in enumerate(("L", "RGBA", "P", "I;16", "1")):
        path = copy / f"0{number}.png"
        image = Image.open(path)
        image = (
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
            if mode == "I;16"
            else image.convert(mode)
        )
        image.save(path)
    save_slide(copy / "mixed.png", tissue_like(200, 100))
    code, content, err = evaluate(patches, copy)
    assert (code, err) == (0, "") and content["fake"]["pictures"] == 51


def test_images_without_any_variance_have_figures(evaluate, tmp_path):
    white = tmp_path / "white"
    white.mkdir()
    for number in range(8):
        Image.new("RGB", (SIZE, SIZE), "white").save(white / f"{number}.png")
    _, content, _ = evaluate(white, white, metrics="fd kid precision-recall")
    assert values(content) == pytest.approx([0, 0, 1, 1], abs=1e-6)


def test_resolutions_that_do_not_match_name_the_option(evaluate, fails, patches, tmp_path):
    slide = save_slide(tmp_path / "slide.tif", tissue_like(600, 600), 0.5)
    coarse = save_slide(tmp_path / "coarse.tif", tissue_like(600, 600), 1.0)
    assert "give --fake-mag or --fake-mpp" in fails(slide, patches)
    assert "give --real-mag or --real-mpp" in fails(patches, slide)
    assert "too coarse for 0.5 um/px (20x)" in fails(coarse, slide)
    assert "--real-mag -3.0: must be a positive number" in fails(slide, patches, "--real-mag", -3)
    assert "--fake-mpp, --fake-mag: give only one of them" in fails(slide, patches, "--fake-mag", 20, "--fake-mpp", 0.5)
    code, content, _ = evaluate(slide, patches, "--fake-mag", 20)
    assert code == 0 and content["levels"][0]["level"] == "20x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fake,real\na,b", "first line must be generated,real"),
        ("generated,real\n00.png,gone.png", "line 2: .*gone.png: cannot be opened"),
        ("generated,real\n00.png,", "line 2: must have 2 values"),
        ("generated,real,x,y\n00.png,01.png,1,nan", "line 2: y nan: must be a whole number"),
        ("generated,real\n", "names no pair"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_a_table_of_pairs_with_errors_names_the_line(fails, copy, text, words):
    table = copy / "pairs.csv"
    if text is not None:
        table.write_text(text)
    error = fails(copy, copy, "--pairs", table, metrics="embedding-similarity")
    assert re.search(words, error), error


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("mean", lambda mean: mean * np.nan, "NaN or infinite"),
        ("covariance", lambda covariance: covariance + np.inf, "NaN or infinite"),
        ("features", lambda features: features[:, 1:], "different widths"),
        ("key", lambda _: "{", "no JSON"),
        ("key", lambda _: "{}", "does not say of what network"),
    ],
)
def test_damaged_statistics_are_never_a_figure(evaluate, fails, patches, tmp_path, name, change, words):
    saved = tmp_path / "saved.npz"
    assert evaluate(patches, patches, "--save-stats", saved)[0] == 0
    assert "is saved statistics already" in fails(saved, patches, "--save-stats", saved, "--overwrite")
    content = dict(np.load(saved))
    content[f"0/{name}"] = change(content[f"0/{name}"])
    np.savez(saved, **content)
    assert words in fails(saved, patches)


def test_features_that_are_not_numbers_are_an_error(fails, patches, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda self, batch: np.full((len(batch), self.dim), np.nan, np.float32))
    assert "NaN or infinite features" in fails(patches, patches)


def test_an_interrupt_says_that_nothing_is_kept(evaluate, patches, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Encoder, "encode", interrupt)
    code, _, err = evaluate(patches, patches)
    assert code == 130 and err == "interrupted; nothing is kept, and the same command starts over\n"


def test_a_large_seed_will_do_and_a_folder_that_cannot_be_written(evaluate, patches, tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir(0o555)
    monkeypatch.chdir(folder)
    code, content, err = evaluate(patches, os.path.relpath(patches), "--seed", 2**62)
    assert (code, err) == (0, "") and content["settings"]["seed"] == 2**62
