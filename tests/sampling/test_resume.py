"""A sampling run that was killed goes on to the same result."""

import pytest
import torch
from helpers.denoisers import Killed, kill_at, mixing, run


@pytest.mark.parametrize("windows", ["overlap", "shift"])
@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.4), ("dpm++", 0), ("unipc", 0), ("lcm", 0)])
@pytest.mark.parametrize("killed_step", [0, 1, 2, 7, 8, 9])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path, killed_step, name, eta, windows):
    options = {"name": name, "steps": 10, "eta": eta, "windows": windows, "batch_size": 100}
    saving = {"checkpoint": tmp_path / "run.safetensors", "fingerprint": "model 1", "save_every_s": 0}
    whole = run(**options)
    with pytest.raises(Killed):
        run(kill_at(killed_step), **options, **saving)
    remaining = []

    def denoise(latents, timestep, contexts):
        remaining.append(int(timestep))
        return mixing(latents, timestep, contexts)

    assert torch.equal(run(denoise, **options, **saving), whole)
    assert len(remaining) == 10 - killed_step
    assert torch.equal(run(kill_at(0), **options, **saving), whole)  # all done: no call at all


@pytest.mark.parametrize("change", [{"fingerprint": "model 2"}, {"seed": 1}, {"steps": 7}, {"guidance": 3.0}])
def test_the_checkpoint_of_another_run_is_left_aside(tmp_path, caplog, change):
    saving = {"checkpoint": tmp_path / "run.safetensors", "fingerprint": "model 1", "save_every_s": 0}
    run(**saving)
    found = run(**(saving | change))
    assert "other settings" in caplog.text
    assert torch.equal(found, run(**{k: v for k, v in change.items() if k != "fingerprint"}))


@pytest.mark.parametrize("damage", [b"", b"junk" * 100, None])
def test_a_damaged_checkpoint_is_left_aside(tmp_path, caplog, damage):
    file = tmp_path / "run.safetensors"
    whole = run(checkpoint=file)
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert torch.equal(run(checkpoint=file), whole)
    assert "damaged" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_checkpoint_is_not_written_at_every_step(tmp_path):
    with pytest.raises(Killed):
        run(kill_at(4), batch_size=100, checkpoint=tmp_path / "run.safetensors", save_every_s=3600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "lcm"])
def test_an_interrupted_run_saves_its_last_whole_step(tmp_path, name):
    """Though the next save is far away; and the scheduler's memory is of that step."""
    options = {"name": name, "steps": 6, "batch_size": 100}
    saving = {"checkpoint": tmp_path / "run.safetensors", "save_every_s": 3600}
    calls = []

    def interrupted(latents, timestep, contexts):
        calls.append(int(timestep))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return mixing(latents, timestep, contexts)

    with pytest.raises(KeyboardInterrupt):
        run(interrupted, **options, **saving)
    remaining = []

    def denoise(latents, timestep, contexts):
        remaining.append(int(timestep))
        return mixing(latents, timestep, contexts)

    assert torch.equal(run(denoise, **options, **saving), run(**options))
    assert len(remaining) == 3
