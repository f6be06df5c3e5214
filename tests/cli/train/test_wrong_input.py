"""What the training commands refuse, and what they say of odd input."""

import shutil
from pathlib import Path

import h5py
import pytest
from helpers.disk import small_disk
from helpers.training import forget_accelerate, names
from helpers.training_commands import LOOP, RUN, fails, words

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.models.model import load_model


def test_another_autoencoder_is_not_gone_on_with(train, short, slide, tmp_path, capsys):
    other = words("train-vae --preset tiny --steps 1 --batch-size 8 --seed 1", slide, "--out", tmp_path / "vae")
    assert run([*other, *LOOP]) == 0
    forget_accelerate()
    out = shutil.copytree(short, tmp_path / "run")
    fails(capsys, train("--resume", "latest", "--vae", tmp_path / "vae", "--out", out), 2, "that run has autoencoder ")


def test_an_encoder_that_is_not_found_is_said(train, embeddings, tmp_path, capsys):
    def elsewhere(file):
        file.attrs["encoder"] = "local-dir:elsewhere/model"

    folder = changed(embeddings, tmp_path / "embeddings", elsewhere)
    (folder / "a.h5").unlink()
    command = train("--out", tmp_path / "run")
    capsys.readouterr()
    assert run([command[0], str(folder), *command[2:]]) == 0
    said = f"encoder local-dir:elsewhere/model: not found at {Path.cwd() / 'elsewhere' / 'model'}"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "model" / "encoder").exists()


def test_a_run_is_not_overwritten_unasked(train, short, capsys):
    before = (short / "metrics.jsonl").read_bytes()
    fails(capsys, train("--out", short), 1, "holds a run already; --resume latest continues it")
    assert names(short) == RUN and (short / "metrics.jsonl").read_bytes() == before


def test_a_loss_that_explodes(train, tmp_path, capsys):
    options = words("--steps 50 --learning-rate 1e30 --warmup-steps 0 --checkpoint-every 50")
    fails(capsys, train(*options, "--out", tmp_path), 1, "resume from a checkpoint with --resume and a lower")
    assert not list(tmp_path.glob("*checkpoint*")) and not (tmp_path / "model").exists()


def test_a_full_disk(train, tmp_path, capsys):
    with small_disk(tmp_path / "disk", 1500) as disk:
        fails(capsys, train("--out", disk / "run"), 1, "no space left on the disk; free some or choose another --out")
        assert not list((disk / "run").glob("*checkpoint*")) and not (disk / "run" / "run.lock").exists()


def test_embedding_files_of_another_slide(train, slide, make_slide, tmp_path, capsys):
    other = make_slide(1400, 1300, name="a.tif")
    arguments = train("--slides", other.parent, "--out", tmp_path / "run")
    fails(capsys, arguments, 2, "a.h5: made from a slide of 1600x1300 px")
    fails(capsys, train("--slides", tmp_path, "--out", tmp_path / "run"), 2, "is not there; say where with --slides")


def changed(embeddings: Path, folder: Path, change) -> Path:
    """A directory with the embedding file and a changed copy of it."""
    folder.mkdir()
    for name in ("a.h5", "b.h5"):
        shutil.copy(embeddings / "a.h5", folder / name)
    with h5py.File(folder / "b.h5", "r+") as file:
        change(file)
    return folder


def empty(file):
    file["features"].resize(0, axis=0)
    file["coords"].resize(0, axis=0)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda file: file.attrs.update(encoder="uni_v1"), "b.h5: encoder uni_v1, but"),
        (lambda file: file.attrs.update(encoder_fingerprint="0"), "b.h5: encoder_fingerprint 0, but"),
        (lambda file: file.attrs.update(tile_px=128), "b.h5: tile_px 128, but"),
        (lambda file: file.attrs.update(complete=False), "b.h5: incomplete"),
        (empty, "b.h5: holds no tile"),
    ],
)
def test_embedding_files_that_cannot_be_trained_on(train, embeddings, tmp_path, capsys, change, text):
    folder = changed(embeddings, tmp_path / "embeddings", change)
    command = train("--out", tmp_path / "run")
    fails(capsys, [command[0], str(folder), *command[2:]], 2, text)
    assert not (tmp_path / "run").exists()


def test_embedding_files_of_unknown_weights_go_with_known_ones(train, embeddings, tmp_path, capsys):
    """Imported files do not say which weights their encoder had; the model says what the others do."""
    folder = changed(embeddings, tmp_path / "embeddings", lambda file: file.attrs.update(encoder_fingerprint=""))
    (folder / "b.h5").rename(folder / "0.h5")  # comes first
    command = train("--out", tmp_path / "run", "--steps", 1, "--checkpoint-every", 1)
    capsys.readouterr()
    assert run([command[0], str(folder), *command[2:]]) == 0
    known = EmbeddingFile(embeddings / "a.h5").settings.encoder_fingerprint
    assert load_model(tmp_path / "run" / "model").info.encoder_fingerprint == known
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "0.h5: not known which weights" in warning and warning.endswith(f"a.h5 ({known})")


def test_no_embedding_files(train, tmp_path, capsys):
    command = train("--out", tmp_path / "run")
    fails(capsys, [command[0], str(tmp_path), *command[2:]], 2, "(looked for .h5); `largegen embed` makes them")


@pytest.mark.parametrize("name", ["train", "train-prior"])
def test_embedding_files_further_below(embeddings, vae, tmp_path, capsys, name):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "site").symlink_to(embeddings)
    small = ["--vae", vae, "--preset", "tiny"] if name == "train" else ["--width", 64, "--layers", 1]
    command = [name, *map(str, [tmp_path / "all", "--out", tmp_path / "run", "--dry-run", *small, "--device", "cpu"])]
    fails(capsys, command, 2, "left out: 1 folders (--recursive searches them) (site); `largegen embed` makes them")
    assert run([*command, "--recursive"]) == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--preset huge", "--preset huge: use one of published, starter, tiny"),
        ("--conditioner mind", "--conditioner mind: use one of patch"),
        ("--turns 3", "--turns 3: use one of 1, 2, 4, 8"),
        ("--batch-size 6 --accumulation 4", "--batch-size 6 does not divide"),
        ("--mixed-precision fp64", "--mixed-precision fp64: use one of auto, no, bf16, fp16"),
        ("--lr-schedule steep", "--lr-schedule steep: use one of constant, cosine"),
        ("--export-precision int8", "--export-precision int8: use one of"),
        ("--device cuda:99", "--device cuda:99"),
        ("--vae /nowhere", "/nowhere: holds no autoencoder"),
        ("--init-from /nowhere", "/nowhere: no model there"),
        ("--resume /nowhere", "--resume /nowhere: not a checkpoint directory"),
        ("--steps 0", "--steps"),
    ],
)
def test_wrong_options(train, tmp_path, capsys, options, text):
    fails(capsys, train("--out", tmp_path / "run", *words(options)), 2, text)


def test_wrong_options_of_the_other_two(slide, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), *LOOP]
    fails(capsys, [*words("train-vae", tmp_path), *out], 2, str(tmp_path))
    fails(capsys, [*words("train-vae --mag 20 --native", slide), *out], 2, "give only one of them")
    fails(capsys, [*words("train-encoder --architecture unheard", slide), *out], 2, "--architecture unheard")
