"""The search for few steps: on a tiny model, and what the sampler makes of them."""

import numpy as np
import pytest
import torch
from helpers.denoisers import NULL, mixing, run
from helpers.models import save_encoder, save_model
from helpers.training_commands import fails

from largegen import generate, load_model
from largegen.models.tuned import Tuned
from largegen.sampling.cost import count_calls
from largegen.sampling.denoise import guided
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.zoom import resolve_zoom
from largegen.training.tune import NO_WORSE, Way, _Search, tune, warped

TUNED = Tuned((999, 499, 199), (1, 2), 0.5, 2.0, 0.1, 0.2)


@pytest.fixture
def tuned(tmp_path):
    model = save_model(tmp_path / "model", save_encoder(tmp_path / "encoder"))
    TUNED.save(model)
    return load_model(model, "cpu", "fp32")


def test_timesteps_are_even_or_nearer_to_the_clean_end():
    assert warped(4, 1.0) == Way((999, 749, 499, 249), (0, 4))
    assert warped(4, 2.0).timesteps == (999, 561, 249, 61)
    assert len(set(warped(12, 4.0).timesteps)) == 12


def test_the_nearest_of_few_steps_are_found(model, monkeypatch):
    few = {"STEPS": 10, "EVEN": 6, "FEW": (2, 3, 4), "WARPS": (1.0, 2.0), "RESCALES": (0.5,)}
    for name, value in few.items():
        monkeypatch.setattr(f"largegen.training.tune.{name}", value)
    contexts = model.context(torch.randn(2, model.info.embedding_dim, generator=torch.Generator().manual_seed(0)))
    found = tune(model, contexts, 2.0)
    count = len(found.timesteps)
    assert count in few["FEW"] and 0 <= found.guided[0] < found.guided[1] <= count
    search = _Search(model, contexts, 2.0, 0, False)
    assert search.distance(warped(10, 1.0)) < 1e-6 < search.distance(warped(6, 1.0)) == found.distance_of_20
    assert found.distance <= NO_WORSE * NO_WORSE * min(search.distance(warped(count, e)) for e in few["WARPS"])


def test_they_are_taken_where_nothing_else_is_asked_for(tuned):
    assert Tuned.load(tuned.directory) == TUNED
    sampling = resolve_defaults(Sampling(guidance=2.0, windows="overlap"), tuned)
    assert (sampling.steps, sampling.timesteps, sampling.guided_between) == (3, (999, 499, 199), (499, 499))
    assert count_calls(sampling, tuned.window, 8, 16) == 3 * 3 + 3  # three windows, guided at one of three steps
    assert resolve_defaults(sampling, tuned) == sampling
    for other in ({"steps": 50}, {"scheduler": "dpm++"}, {"eta": 0.5}):
        assert not resolve_defaults(Sampling(**other), tuned).timesteps
    assert resolve_zoom(Sampling(), Zooming("published"), tuned).steps == 20
    grid = np.random.default_rng(0).normal(size=(2, 2, 16)).astype(np.float32)
    calls = []
    tuned.unet.register_forward_hook(lambda *given: calls.append(len(given[2].sample)))
    generate(tuned, grid, guidance=2.0, windows="overlap", stride=8, batch_size=8)
    assert calls == [4, 8, 4]


def test_chosen_timesteps_are_ddims_own_where_they_are_even():
    options = {"guidance": 2.0, "windows": "shift", "steps": 5}
    even = run(**options)
    assert torch.allclose(run(**options, timesteps=(999, 799, 599, 399, 199)), even, atol=1e-4)
    assert not torch.allclose(run(**options, timesteps=(999, 799, 599, 399, 99)), even, atol=1e-2)
    assert torch.equal(
        run(**options, timesteps=(999, 799, 599, 399, 199), guided=(0, 5)),
        run(**options, timesteps=(999, 799, 599, 399, 199)),
    )


def test_rescaled_guidance_has_the_spread_of_the_conditional_noise():
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    contexts = torch.tensor([[[0.1]], [[0.9]]])
    null = NULL[..., :1]

    def spread(**options):
        return guided(mixing, null, 3.0, **options)(x, t, contexts).std((1, 2, 3))

    assert torch.allclose(spread(rescale=1.0), mixing(x, t, contexts).std((1, 2, 3)))
    assert torch.equal(guided(mixing, null, 3.0, (600, 999))(x, t, contexts), mixing(x, t, contexts))


def test_tune_writes_into_the_models_directory(tmp_path, capsys):
    encoder = save_encoder(tmp_path / "encoder")
    model = save_model(tmp_path / "model", encoder)
    fails(capsys, ["tune", str(model), "--data", str(tmp_path)], 2, "no embedding files")
