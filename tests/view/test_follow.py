"""A run is followed by the files that it saves, and is none the wiser."""

import json
import os

import numpy as np
import pytest
import torch
from helpers.denoisers import Killed, kill_at, run
from helpers.slides import save_slide, tissue_like

from largegen.models.linear_decoder import LinearDecoder
from largegen.view.canvas_file import decode
from largegen.view.follow import Pace, follow
from largegen.view.losses import Losses


def stopped_after(folder, steps: int, **options):
    """Sample 5 steps of a canvas of 40x28 latents for `out.tif`, killed after so many; all windows in one call."""
    with pytest.raises(Killed):
        run(kill_at(steps), batch_size=100, checkpoint=folder / ".out.tif.partial", save_every_s=0, **options)
    return folder / "out.tif"


@pytest.fixture(autouse=True)
def _never_at_rest(monkeypatch):
    monkeypatch.setattr("largegen.view.follow.REST_RATIO", 0)


@pytest.mark.parametrize(
    "options",
    [{"windows": "overlap"}, {"windows": "shift"}, {"timesteps": (950, 700, 450, 200, 50), "rescale": 0.5}],
    ids=["overlap", "shift", "chosen timesteps"],
)
def test_the_canvas_and_its_steps_and_windows_are_seen(tmp_path, options):
    found = follow(stopped_after(tmp_path, 2, **options))
    said = found.look()
    assert (said["state"], said["step"], said["steps"], said["version"]) == ("sampling", 2, 5, 1)
    assert 0 < said["windows_done"] < said["windows"]
    picture = found.scene().pictures[0]
    assert (picture.width, picture.height) == (28 * 8, 40 * 8) and picture.tile(picture.levels - 1, 0, 0)
    assert found.look()["version"] == 1
    stopped_after(tmp_path, 1, **options)  # one step more
    said = found.look()
    assert (said["step"], said["version"]) == (3, 2)


def test_a_canvas_in_a_file_of_rows_is_the_one_in_memory(tmp_path, monkeypatch):
    (tmp_path / "memory").mkdir()
    whole = follow(stopped_after(tmp_path / "memory", 2))
    monkeypatch.setattr("largegen.sampling.stored_canvas.MAX_MEMORY_CANVAS_VALUES", 0)
    (tmp_path / "file").mkdir()
    rows = follow(stopped_after(tmp_path / "file", 2))
    assert (tmp_path / "file" / ".out.tif.partial.rows").exists()
    assert [found.look()["step"] for found in (whole, rows)] == [2, 2]
    colours = [found.scene().pictures[0].source._colours.astype(int) for found in (whole, rows)]
    assert colours[0].shape == (40, 28, 3) and np.abs(colours[0] - colours[1]).max() <= 1


def test_looks_take_little_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr("largegen.view.follow.REST_RATIO", 10**6)
    found = follow(stopped_after(tmp_path, 2))
    assert found.look()["version"] == 1
    stopped_after(tmp_path, 1)
    assert found.look()["version"] == 1


def test_before_and_after_there_is_a_canvas(tmp_path):
    out = tmp_path / "out.tif"
    found = follow(out)
    assert found.look() == {"state": "waiting"} and not found.scene().pictures
    stopped_after(tmp_path, 1)
    assert found.look()["state"] == "sampling"
    (tmp_path / ".out.tif.partial").unlink()
    assert found.look()["state"] == "decoding"
    save_slide(out, tissue_like(64, 64))
    assert found.look()["state"] == "done"


@pytest.mark.parametrize("content", [b"", b"junk" * 100, None])
def test_a_file_that_is_just_being_replaced_is_looked_at_later(tmp_path, content):
    out = stopped_after(tmp_path, 2)
    partial = tmp_path / ".out.tif.partial"
    whole = partial.read_bytes()
    partial.write_bytes(whole[:-50] if content is None else content)
    found = follow(out)
    assert found.look() == {"state": "waiting"}
    partial.write_bytes(whole)
    os.utime(partial, (1, 1))
    assert found.look()["step"] == 2


def test_colours_are_those_of_the_linear_decoder(tmp_path):
    torch.manual_seed(0)
    decoder = LinearDecoder(torch.randn(3, 4, 4, 5) / 5, torch.randn(3, 4, 4) / 5)
    decoder.save(tmp_path / "linear.safetensors")
    latents = torch.randn(5, 6, 7)
    factor, colours, note = decode(latents.numpy(), tmp_path / "linear.safetensors")
    pixels = torch.einsum("cfgk,khw->chfwg", decoder.weight, latents) + decoder.bias[:, None, :, None]
    expected = ((pixels.mean((2, 4)) + 1) / 2).clamp(0, 1).permute(1, 2, 0) * 255
    assert factor == 4 and np.abs(colours - expected.numpy()).max() <= 1 and "nearly" in note


def test_large_canvases_are_shown_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("largegen.view.canvas_file.MOST_CELLS", 10)
    found = follow(stopped_after(tmp_path, 1))
    found.look()
    picture = found.scene().pictures[0]
    assert (picture.width, picture.height) == (224, 320) and picture.source._colours.shape == (10, 7, 3)


def test_the_time_left_is_that_of_the_steps_so_far():
    pace = Pace()
    assert pace.left_s(10) is None
    for step, when in ((1, 100.0), (3, 120.0), (4, 130.0)):
        pace.saw(step, when)
    assert pace.left_s(10) == 60.0
    pace.saw(1, 200.0)  # begun again
    assert pace.left_s(10) is None


def test_a_training_run_shows_its_losses_and_its_last_samples(tmp_path):
    found = follow(tmp_path)
    assert found.look()["state"] == "waiting"
    (tmp_path / "config.json").write_text(json.dumps({"steps": 40}))
    lines = [{"step": step, "loss": 1 / step} for step in range(10, 31, 10)] + [{"step": 30, "validation_loss": 0.5}]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4')
    (tmp_path / "samples").mkdir()
    save_slide(tmp_path / "samples" / "step-000020.png", tissue_like(96, 64))
    said = found.look()
    assert (said["state"], said["step"], said["steps"], said["version"]) == ("training", 30, 40, 1)
    assert said["losses"] == {"loss": [(10, 0.1), (20, 0.05), (30, 1 / 30)], "validation_loss": [(30, 0.5)]}
    assert found.scene().pictures[0].width == 96


def test_a_log_is_read_on_from_where_it_was_and_curves_are_thinned(tmp_path):
    path = tmp_path / "metrics.jsonl"
    losses = Losses(path)
    path.write_text("".join(json.dumps({"step": step, "loss": 2.0}) + "\n" for step in range(1, 1001)))
    losses.read()
    with path.open("a") as file:
        file.write('{"step": 1001, "loss": null}\nno line\n{"step": 1002, "loss": 1.0}\n')
    losses.read()
    assert losses.step == 1002 and 200 < len(losses.curves()["loss"]) <= 300
    path.write_text('{"step": 5, "loss": 3.0}\n')  # gone back
    losses.read()
    assert losses.step == 5 and losses.curves()["loss"] == [(5, 3.0)]
