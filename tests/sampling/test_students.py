"""A model with a student: it is taken where nothing else is asked for, by every way to sample, in one call a window."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.models import few_steps, flat_grid, random_features, save_encoder, save_model, save_with_student

from largegen import generate, load_model
from largegen.errors import InputError, ModelError
from largegen.models.student import FOLDER
from largegen.sampling.cost import count_calls
from largegen.sampling.generate import resolve_defaults, sample_latents
from largegen.sampling.patches import sample_patches
from largegen.sampling.rows import in_memory
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.zoom import count_work, resolve_zoom, zoom_latents


@pytest.fixture(scope="module")
def path(tmp_path_factory, zoom_model_path):
    return save_with_student(tmp_path_factory.mktemp("student") / "model", zoom_model_path)


@pytest.fixture
def student(path):
    return load_model(path, "cpu", "fp32")


@pytest.fixture
def calls(student):
    """How many windows student and teacher see."""
    seen = {"student": 0, "teacher": 0}

    def count(name):
        def counting(unet, given, found):
            seen[name] += len(found.sample)

        return counting

    student.student.unet.register_forward_hook(count("student"))
    student.unet.register_forward_hook(count("teacher"))
    return seen


@pytest.mark.parametrize(
    ("scheduler", "timesteps", "windows"), [("ddim", (999, 559, 239, 59), "shift"), ("lcm", (), "overlap")]
)
def test_the_same_image_for_every_batch_size_and_as_counted(scheduler, timesteps, windows, tmp_path, zoom_model_path):
    made = save_with_student(tmp_path / "a", zoom_model_path, scheduler=scheduler, timesteps=timesteps)
    model, seen = load_model(made, "cpu", "fp32"), []
    sampling = resolve_defaults(Sampling(windows=windows, guidance=2.5, batch_size=1), model)
    assert (sampling.scheduler, sampling.steps, sampling.timesteps) == (scheduler, 4, timesteps)
    model.student.unet.register_forward_hook(lambda *given: seen.append(len(given[2].sample)))
    canvases = [
        in_memory(sample_latents(model, random_features(2), 128, 128, replace(sampling, batch_size=n))) for n in (1, 5)
    ]
    assert torch.allclose(*canvases, atol=1e-4) and sum(seen) == 2 * count_calls(sampling, model.window, 16, 16)


def test_every_way_to_sample_takes_the_student(student, calls):
    grid = flat_grid(student, 2, 2).features
    generate(student, grid)
    sample_patches(student, random_features(2)[None], 1, resolve_defaults(Sampling(), student))
    assert calls["student"] == count_calls(resolve_defaults(Sampling(), student), 8, 16, 16) + 4
    assert calls["teacher"] == 0
    generate(student, grid, distilled=False, steps=1, guidance=1.0)
    assert calls["teacher"]


def test_zoom_takes_it_for_draft_guide_and_image(student, calls):
    sampling = resolve_zoom(Sampling(guidance=3.0), Zooming(), student)
    _, canvas = zoom_latents(student, random_features(4), sampling, Zooming())
    assert in_memory(canvas).shape == (1, 4, 32, 32) and in_memory(canvas).isfinite().all()
    assert calls == {"student": count_work(student, 4, sampling, Zooming())["denoiser_calls"], "teacher": 0}
    published = resolve_zoom(Sampling(guidance=3.0), Zooming("published"), student)
    assert (published.distilled, published.steps, published.timesteps) == (False, 20, ())


def test_guidance_outside_its_range_is_refused_in_one_line(student):
    for scale in (0.5, 4.5):
        with pytest.raises(
            InputError, match=f"`guidance` {scale}: the distilled model knows 1 to 4; `distilled=False`"
        ):
            resolve_defaults(Sampling(guidance=scale), student)
    assert not few_steps(student, guidance=9.0, steps=20).distilled


def test_guidance_changes_what_it_makes(student):
    grid = flat_grid(student, 1, 1).features
    first, second = (generate(student, grid, guidance=scale) for scale in (1.0, 4.0))
    assert not np.array_equal(first, second)


def test_a_student_of_another_model_is_refused(tmp_path, path):
    other = save_model(tmp_path / "other", save_encoder(tmp_path / "encoder"), seed=1, levels=4)
    (path / FOLDER).rename(other / FOLDER)
    try:
        with pytest.raises(ModelError, match="was distilled from another model, tiny"):
            _ = load_model(other, "cpu", "fp32").student
    finally:
        (other / FOLDER).rename(path / FOLDER)
    assert "student" not in vars(load_model(path, "cpu", "fp32"))  # it is loaded when it is first needed


def test_a_damaged_student_is_refused(tmp_path, zoom_model_path):
    damaged = save_with_student(tmp_path / "a", zoom_model_path)
    weights, about = damaged / FOLDER / "changes.safetensors", damaged / FOLDER / "student.json"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"changes.safetensors: missing or damaged"):
        _ = load_model(damaged, "cpu", "fp32").student
    about.write_text(json.dumps({"guidance": 3}))
    with pytest.raises(ModelError, match=r"student.json: damaged"):
        load_model(damaged, "cpu", "fp32")
