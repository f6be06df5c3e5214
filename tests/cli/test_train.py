"""The chain train-vae, train-encoder, embed, train on a small slide; killed, shared between processes, and misused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from helpers.disk import small_disk
from helpers.slides import tissue_like
from PIL import Image
from safetensors.torch import load_file

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.models.encoder import load_encoder
from largegen.models.model import load_model
from largegen.models.storage import WEIGHTS
from largegen.training.log import read_metrics
from largegen.training.sample_metrics import SampleMetrics

LOOP = ["--warmup-steps", "2", "--workers", "0", "--log-every", "1", "--mixed-precision", "no", "--device", "cpu"]


def words(text: str, *more) -> list[str]:
    return [*text.split(), *map(str, more)]


def reset_accelerate():
    """Forget the settings of a finished run: accelerate keeps them, one set per process."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    reset_accelerate()


@pytest.fixture(scope="module")
def slide(make_slide):
    return make_slide(1600, 1300, name="a.tif")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def vae(slide, folder):
    out = folder / "vae"
    command = words("train-vae --preset tiny --steps 40 --batch-size 8 --learning-rate 2e-3 --validation 0.2", slide)
    assert run([*command, *LOOP, *words("--validate-every 40 --out", out)]) == 0
    return out


@pytest.fixture(scope="module")
def encoder(slide, folder):
    out = folder / "encoder"
    sizes = words("--architecture test_resnet --width 16 --tile-px 64 --input-px 32 --licence CC0-1.0")
    assert run([*words("train-encoder --steps 3 --batch-size 8", slide, "--out", out), *sizes, *LOOP]) == 0
    return out


@pytest.fixture(scope="module")
def embeddings(slide, encoder, folder):
    command = words("embed", slide, "--out", folder / "embeddings", "--encoder", f"local-dir:{encoder / 'model'}")
    assert run([*command, *words("--tile-px 64 --device cpu")]) == 0
    return folder / "embeddings"


@pytest.fixture(scope="module")
def train(embeddings, vae, folder):
    """The arguments of a short `largegen train`; options given twice are those of the second."""
    small = words("--preset tiny --turns 2 --steps 4 --batch-size 8 --checkpoint-every 2 --validate-every 4")
    shared = ["--cache", folder / "latents", "--vae", vae, "--validation", "0.2"]
    return lambda *more: ["train", str(embeddings), *map(str, (*shared, *small, *LOOP, *more))]


@pytest.fixture(scope="module")
def short(train, folder):
    """The run directory of a short training."""
    assert run(train("--out", folder / "short")) == 0
    return folder / "short"


@pytest.fixture(scope="module")
def trained(train, folder):
    """The run directory of a training that is long enough to learn something."""
    options = (
        "--steps 60 --batch-size 16 --learning-rate 3e-3 --checkpoint-every 60 --validate-every 60 --ema-decay 0.5"
    )
    assert run(train(*words(options), "--out", folder / "trained", "--licence", "CC-BY-4.0")) == 0
    return folder / "trained"


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails(capsys, arguments, code, text):
    capsys.readouterr()
    assert run(arguments) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and text in last, last


RUN = ["checkpoint-2", "checkpoint-4", "config.json", "loss.png", "metrics.jsonl", "model", "samples", "tensorboard"]


def test_train_vae_learns_and_measures(vae):
    found = losses(vae)
    assert len(found) == 40 and np.mean(found[-5:]) < 0.75 * np.mean(found[:5])
    last = read_metrics(vae / "metrics.jsonl")[-1]
    assert last["validation_psnr"] > 10
    config = json.loads((vae / "model" / "vae" / "config.json").read_text())
    assert len(config["latents_mean"]) == len(config["latents_std"]) == 4 and min(config["latents_std"]) > 0


def test_train_vae_with_a_perceptual_distance(slide, tmp_path, capsys, monkeypatch):
    pytest.importorskip("stlpips_pytorch", reason="carries the weights: install largegen[perceptual]")
    command = words("train-vae --preset tiny --steps 1 --batch-size 4 --perceptual 0.5", slide)
    assert run([*command, *LOOP, "--out", str(tmp_path / "a")]) == 0
    first = read_metrics(tmp_path / "a" / "metrics.jsonl")[0]
    parts = first["l1"] + first["stain"] + 0.2 * first["dissimilarity"] + 1e-6 * first["kl"]
    assert first["lpips"] > 0.01 and first["loss"] == pytest.approx(parts + 0.5 * first["lpips"], rel=1e-4)
    kept = sum(file.stat().st_size for file in (tmp_path / "a").rglob("*.*") if file.is_file())
    assert kept < 10e6  # of a run whose network of 59 MB is nobody's to keep
    monkeypatch.setattr("largegen.models.perceptual.find_spec", lambda _: None)
    fails(capsys, [*command, *LOOP, "--out", str(tmp_path / "b")], 2, "largegen[perceptual]")


def test_train_encoder_makes_an_encoder(encoder):
    loaded = load_encoder(f"local-dir:{encoder / 'model'}", device="cpu")
    assert loaded.dim == 16 and loaded.spec.licence == "CC0-1.0"
    lines = read_metrics(encoder / "metrics.jsonl")
    assert all(0 <= line["retrieval"] <= 1 for line in lines if "retrieval" in line)
    assert Image.open(next((encoder / "samples").iterdir())).size[0] > 100


def test_train_makes_a_model(short, embeddings):
    assert names(short) == RUN
    assert names(short / "model") == [
        "conditioner",
        "encoder",
        "linear_decoder.safetensors",
        "model_index.json",
        "scheduler",
        "unet",
        "vae",
    ]
    model = load_model(short, "cpu")
    assert (model.window, model.tile_px, model.info.embedding_dim) == (8, 64, 16)
    assert model.info.name == "short" and model.info.licence == model.info.encoder_licence == "CC0-1.0"
    assert model.info.trained_on[0].name == "a" and model.info.trained_on[0].mpp == 0.5
    sheet = np.asarray(Image.open(short / "samples" / "step-000004.png"))
    assert sheet.shape == (2 * 64 + 4, 8 * 64 + 7 * 4, 3) and sheet.std() > 5
    assert "validation_loss" in read_metrics(short / "metrics.jsonl")[-1]
    task = json.loads((short / "config.json").read_text())["task"]
    with h5py.File(embeddings / "a.h5") as file:
        count = len(file["features"])
    training, validation = task["regions"][0], task["validation_regions"][0]
    assert 0 < validation < training and training + validation <= count


def test_train_at_several_levels(train, short, tmp_path, caplog):
    zooming = words("--conditioner summarizer --levels 3 --init-from", short)
    with caplog.at_level("INFO"):
        assert run(train("--out", tmp_path / "zoom", *zooming)) == 0
    assert "another kind of conditioner" in caplog.text
    assert "level 0 (20x): " in caplog.text and "level 2 (5x): " in caplog.text
    model = load_model(tmp_path / "zoom", "cpu")
    assert model.levels == 3 and type(model.conditioner).__name__ == "Summarizer"
    last = read_metrics(tmp_path / "zoom" / "metrics.jsonl")[-1]
    levels = [last[name] for name in last if name.startswith("validation_loss_level_")]
    assert last["validation_loss"] == pytest.approx(np.mean(levels)) and len(set(levels)) == len(levels) >= 2
    sheet = np.asarray(Image.open(tmp_path / "zoom" / "samples" / "step-000004.png"))
    assert sheet.shape[0] == 6 * 64 + 5 * 4  # two rows for each level


def evaluations(out: Path) -> dict[int, dict[str, float]]:
    """The figures of samples, by step."""
    lines = read_metrics(out / "metrics.jsonl")
    return {line["step"]: line for line in lines if any(name.startswith("fd:") for name in line)}


def test_samples_are_evaluated_during_training(train, encoder, tmp_path):
    command = train("--out", tmp_path / "a", *words("--eval-every 2 --eval-samples 8"))
    assert run(command) == 0
    found, name = evaluations(tmp_path / "a"), f"fd:local-dir:{encoder / 'model'}"
    assert list(found) == [2, 4] and all(set(line) == {"step", name, "similarity"} for line in found.values())
    assert all(line[name] > 0 and -1 <= line["similarity"] <= 1 for line in found.values())
    assert found[2] != found[4]
    # Looking changes nothing: the next losses are those of a run that does not look.
    assert run(train("--out", tmp_path / "b")) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_samples_of_each_level_are_evaluated_by_the_encoder_asked_for(train, tmp_path):
    zooming = words("--conditioner summarizer --levels 2 --steps 1 --eval-every 5 --eval-encoder starter")
    assert run(train("--out", tmp_path / "a", *zooming)) == 0
    (line,) = evaluations(tmp_path / "a").values()  # at the last step, whatever the interval
    names_of_levels = {f"{figure}_level_{k}" for figure in ("fd:starter", "similarity") for k in (0, 1)}
    assert set(line) == {"step"} | names_of_levels


def test_figures_of_samples_order_good_before_bad():
    sample_metrics = SampleMetrics(load_encoder("starter", device="cpu"), every=1, samples=8)
    rng = np.random.default_rng(0)
    real = np.stack([tissue_like(256, 256, seed) for seed in range(8)])
    noisy = (real + rng.normal(0, 40, real.shape)).clip(0, 255).astype(np.uint8)
    same, worse = sample_metrics.figures(real, real), sample_metrics.figures(real, noisy)
    assert same["fd:starter"] == pytest.approx(0, abs=1e-6) and same["similarity"] == pytest.approx(1, abs=1e-6)
    assert worse["fd:starter"] > 0.01 and worse["similarity"] < 0.95


def test_nothing_held_out_cannot_be_evaluated(train, tmp_path, capsys):
    fails(capsys, train("--out", tmp_path / "a", *words("--eval-every 2 --validation 0")), 2, "raise --validation")


def test_levels_of_a_scene_are_counted_from_its_own_resolution(train, encoder, scene_path, tmp_path, caplog):
    command = words("embed", scene_path, "--out", tmp_path / "scenes", "--encoder", f"local-dir:{encoder / 'model'}")
    assert run([*command, *words("--tile-px 64 --overlap 48 --device cpu -q")]) == 0
    zooming = words("--conditioner summarizer --levels 2 --steps 1 --validation 0")
    arguments = train("--out", tmp_path / "zoom", *zooming)
    arguments[1] = str(tmp_path / "scenes")
    with caplog.at_level("INFO"):
        assert run(arguments) == 0
    assert "level 0 (1x): " in caplog.text and "level 1 (2x): " in caplog.text
    assert load_model(tmp_path / "zoom", "cpu").level_names == ["1x", "2x"]


def test_several_levels_need_the_summarizer(train, tmp_path, capsys):
    fails(capsys, train("--out", tmp_path / "a", "--levels", "3"), 2, "use --conditioner summarizer")


def test_a_slide_too_small_for_a_level(train, tmp_path, capsys):
    zooming = words("--conditioner summarizer --levels 8 --validation 0")
    fails(capsys, train("--out", tmp_path / "a", *zooming), 2, "to train on: the slides are too small")


def test_the_denoiser_learns(trained):
    found = losses(trained)
    assert np.mean(found[-10:]) < 0.85 * np.mean(found[:10])


def test_training_killed_in_the_middle_goes_on_as_if_it_had_not_been(train, tmp_path):
    steps = "--steps 2000 --checkpoint-every 5 --validate-every 2000 --checkpoints-limit 2"
    command = [sys.executable, "-m", "largegen", *train(*words(steps), "--out", tmp_path / "cut")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not list((tmp_path / "cut").glob("checkpoint-*")) and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    last = max(int(path.name.split("-")[1]) for path in (tmp_path / "cut").glob("checkpoint-*"))
    more = words("--checkpoint-every 100 --validate-every 200 --steps", last + 10)
    assert run(train(*more, "--resume", "latest", "--out", tmp_path / "cut")) == 0
    assert run(train(*more, "--out", tmp_path / "whole")) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob(".checkpoint*")) and not (tmp_path / "cut" / "run.lock").exists()


@pytest.mark.parametrize(
    "command",
    ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train-vae", "train-encoder"))],
)
def test_two_processes_do_what_one_does(train, slide, tmp_path, command):
    if command == "train":
        arguments = train()
    else:
        sizes = "--preset tiny" if command == "train-vae" else "--architecture test_resnet --tile-px 64 --input-px 32"
        steps = "--steps 3 --batch-size 8 --checkpoint-every 3"
        arguments = [command, str(slide), *words(sizes), *words(steps), *LOOP]
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0 -m largegen"
    done = subprocess.run(
        [sys.executable, *words(launch), *arguments, "--out", str(tmp_path / "two")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("use it as") == 1
    assert run([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert names(tmp_path / "two") == names(tmp_path / "one")
    if command == "train-encoder":  # a crop's rivals, and batch normalisation, are those of its own process
        assert len(losses(tmp_path / "two")) == len(losses(tmp_path / "one"))
    else:
        assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_accumulated_micro_batches_are_one_batch(train, short, tmp_path):
    assert run(train("--accumulation", "4", "--out", tmp_path)) == 0
    assert losses(tmp_path) == pytest.approx(losses(short), rel=1e-5)


def test_init_from_starts_where_the_other_ended(train, trained, short, tmp_path):
    assert run(train("--out", tmp_path, "--init-from", trained)) == 0
    assert losses(tmp_path)[0] < 0.85 * losses(short)[0]
    info = load_model(tmp_path, "cpu").info
    assert info.init_from == "trained" and info.licence == "CC0-1.0; CC-BY-4.0"


def test_weights_are_as_readable_as_other_files(vae, encoder, short):
    (short / "usual").touch()
    usual = (short / "usual").stat().st_mode
    (short / "usual").unlink()
    found = {file: file.stat().st_mode for out in (vae, encoder, short) for file in out.glob("model/**/*.safetensors")}
    assert len(found) == 7 and set(found.values()) == {usual}


def test_another_autoencoder_is_not_gone_on_with(train, short, slide, tmp_path, capsys):
    other = words("train-vae --preset tiny --steps 1 --batch-size 8 --seed 1", slide, "--out", tmp_path / "vae")
    assert run([*other, *LOOP]) == 0
    reset_accelerate()
    out = shutil.copytree(short, tmp_path / "run")
    fails(capsys, train("--resume", "latest", "--vae", tmp_path / "vae", "--out", out), 2, "that run has autoencoder ")


def test_the_model_has_the_autoencoder_that_it_was_given(short, vae):
    given, kept = (load_file(out / "vae" / WEIGHTS) for out in (vae / "model", short / "model"))
    assert all(torch.equal(given[name], kept[name]) for name in given)


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


def test_fp16_export_and_latents_computed_once(train, short, tmp_path, folder):
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()}
    assert run(train("--out", tmp_path, "--export-precision", "fp16", "--name", "small")) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()} == before
    half, full = ((out / "model/unet/diffusion_pytorch_model.safetensors").stat().st_size for out in (tmp_path, short))
    assert half < 0.6 * full
    assert load_model(tmp_path, "cpu").info.name == "small"


def test_dry_runs_write_nothing(train, slide, tmp_path, capsys):
    commands = [
        train("--cache", tmp_path / "cache"),
        [*words("train-vae --preset tiny --steps 4 --batch-size 8", slide), *LOOP],
        [*words("train-encoder --architecture test_resnet --steps 4 --batch-size 8 --tile-px 64", slide), *LOOP],
    ]
    for command in commands:
        capsys.readouterr()
        assert run([*command, "-n", "--out", str(tmp_path / "out")]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (
            report["samples"] == 32
            and report["parameters"] > 1000
            and max(report["task"].get("regions", [0])[0], report["task"].get("tiles", 0)) > 0
        )
        assert report["config"]["steps"] == 4 and report["disk_mb"] > report["checkpoint_mb"] > 0
    assert names(tmp_path) == []


def test_json_result(train, tmp_path, capsys):
    assert run(train("--out", tmp_path / "run", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(tmp_path / "run" / "model") and report["steps"] == 4
    assert report["loss"] == losses(tmp_path / "run")[-1] and report["validation_loss"] > 0


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
