"""What distill makes, and how its student is used."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch
from helpers.training import losses
from helpers.training_commands import LOOP, fails, words

from largegen.cli import run
from largegen.models.model import load_model
from largegen.models.student import FOLDER
from largegen.sampling.generate import generate, resolve_defaults
from largegen.sampling.settings import Sampling


@pytest.fixture(scope="module")
def distil(short, embeddings, folder):
    """The arguments of a short `largegen distill`; options given twice are those of the second."""
    small = words(
        "--target lcm --few 4 --rank 2 --turns 2 --steps 4 --batch-size 4 --checkpoint-every 2 --validate-every 4"
    )
    shared = ["distill", short, "--data", embeddings, "--cache", folder / "latents", "--validation", "0.2"]
    return lambda *more: [*map(str, shared), *small, *LOOP, *map(str, more)]


@pytest.fixture(scope="module")
def fast(distil, folder):
    """The run directory of a short distillation."""
    assert run(distil("--out", folder / "fast")) == 0
    return folder / "fast"


def test_a_student_is_a_small_part_of_its_teachers_directory(short, fast):
    teacher, model = load_model(short, "cpu", "fp32"), load_model(fast, "cpu", "fp32")
    assert model.student_info.teacher == teacher.info.name and model.student_info.licence == teacher.info.licence
    assert (model.student_info.scheduler, model.student_info.steps) == ("lcm", 4)
    for own, its in zip(model.unet.parameters(), teacher.unet.parameters(), strict=True):
        assert torch.equal(own, its)
    changed = model.student.unet.state_dict()
    assert any(not torch.equal(changed[name], weight) for name, weight in model.unet.state_dict().items())
    sizes = [sum(f.stat().st_size for f in part.iterdir()) for part in (fast / "model" / FOLDER, fast / "model/unet")]
    assert sizes[0] < sizes[1] / 2


def test_a_killed_distillation_resumes_bit_for_bit(distil, fast, tmp_path, capsys):
    out = tmp_path / "a"
    assert run(distil("--steps", "2", "--out", out)) == 0
    fails(
        capsys, distil("--target", "steps", "--resume", "latest", "--out", out), 2, "that run has target lcm, not steps"
    )
    assert run(distil("--resume", "latest", "--out", out)) == 0
    assert losses(out) == losses(fast)
    kept = [(each / "model" / FOLDER / "changes.safetensors").read_bytes() for each in (out, fast)]
    assert kept[0] == kept[1]


def test_embeddings_alone_are_enough(distil, embeddings, tmp_path, capsys):
    alone = tmp_path / "alone"
    shutil.copytree(embeddings, alone)
    (gone := alone / "a.h5").chmod(0o644)
    with h5py.File(gone, "r+") as file:
        file.attrs["source_path"] = "/gone.tif"
    command = distil("--data", alone, "--cache", tmp_path / "latents", "--regions", "3", "--validation", "0")
    command.remove(str(embeddings))
    command.remove("--data")
    assert run([*command, "--no-images", "--steps", "1", "--out", str(tmp_path / "out")]) == 0
    fails(capsys, [*command, "--out", str(tmp_path / "other")], 2, "its slide /gone.tif is not there")
    [latents] = (tmp_path / "latents").glob("*.npy")
    made = np.load(latents).astype(np.float32)
    assert made.shape[:2] == (3, 1) and np.isfinite(made).all() and not np.allclose(made[0], made[1], atol=0.1)


def test_minutes_end_a_run_that_can_go_on(distil, tmp_path):
    out = tmp_path / "a"
    assert run(distil("--target", "steps", "--few", "3", "--minutes", "1e-6", "--out", out)) == 0
    assert len(losses(out)) == 1 and (out / "checkpoint-1").is_dir()
    model = load_model(out, "cpu", "fp32")
    assert (model.student_info.scheduler, model.student_info.timesteps) == ("ddim", (999, 439, 119))
    for given, found in (
        ({}, ("ddim", 3, True)),
        ({"steps": 20}, ("ddim", 20, False)),
        ({"steps": 4}, ("ddim", 4, False)),
    ):
        sampling = resolve_defaults(Sampling(**given), model)
        assert (sampling.scheduler, sampling.steps, sampling.distilled) == found


def test_generate_takes_the_student_by_itself(fast, embeddings, tmp_path, capsys):
    ref = next(embeddings.glob("*.h5"))
    command = ["generate", "--embeddings", str(ref), "--size", "128", "--model", str(fast), "--device", "cpu"]
    shift = ["--windows", "shift"]

    def planned(*more):
        capsys.readouterr()
        assert run([*command, "--dry-run", *more]) == 0
        plan = json.loads(capsys.readouterr().out)
        settings = plan["settings"]
        return settings["scheduler"], settings["steps"], settings["distilled"], plan["denoiser_calls"]

    windows = planned(*shift)[3]
    assert planned(*shift) == ("lcm", 4, True, windows) and planned()[:3] == ("lcm", 4, True)
    assert planned("--no-distilled", "--steps", "4", *shift) == ("ddim", 4, False, 2 * windows)
    assert planned("--steps", "20")[:3] == ("ddim", 20, False)
    assert planned("--scheduler", "dpm++")[:3] == ("dpm++", 50, False)
    assert planned("--scheduler", "lcm", "--steps", "12")[:3] == ("lcm", 12, True)
    fails(capsys, [*command, "--guidance", "9"], 2, "--guidance 9: the distilled model knows 1 to 4; --no-distilled")
    assert run([*command, "--out", str(tmp_path / "a.png")]) == 0
    assert run(["info", str(tmp_path / "a.png"), "--json"]) == 0
    assert '"lcm"' in capsys.readouterr().out


def test_guidance_in_one_call_for_as_many_steps_as_before(distil, tmp_path, short, capsys):
    assert run(distil("--target", "guidance", "--out", tmp_path / "a")) == 0
    model, teacher = (load_model(path, "cpu", "fp32") for path in (tmp_path / "a", short))
    grid = np.zeros((2, 2, 16), np.float32)
    assert generate(model, grid, steps=2).shape == (128, 128, 3)
    fails(capsys, distil("--target", "both", "--out", tmp_path / "b"), 2, "--target both: use one of")
    with pytest.raises(Exception, match="only for a distilled model"):
        generate(teacher, grid, scheduler="lcm")
