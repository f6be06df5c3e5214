"""Networks, sampler and decoding against tensors that the published code computed."""

import numpy as np
import pytest
import torch
from toys import ALPHA_BAR, TRAIN

from largegen.conditioning import interpolate_grid
from largegen.decode import decode_canvas
from largegen.sampling import make_scheduler, sample_canvas
from largegen.windows import overlap_windows


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("yaml")
    from reference import FOLDER, load_reference

    if not FOLDER.is_dir():
        pytest.skip(f"no reference at {FOLDER}")
    from safetensors.torch import load_file

    files = [load_file(FOLDER / f"{name}.safetensors") for name in ("expected", "large_image")]
    return *load_reference(), *files


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_reference_networks(reference):
    unet, vae, conditioner, expected, _ = reference
    eps = unet(expected["unet.sample"], expected["unet.timestep"], expected["unet.context"]).sample
    assert relative(eps, expected["unet.eps"]) < 5e-6
    assert relative(vae.encode(expected["vae.image"]).latents, expected["vae.latent"]) < 5e-6
    assert relative(vae.decode(expected["vae.latent"]).sample, expected["vae.decoded"]) < 5e-6
    assert relative(conditioner(expected["cond.features"]), expected["cond.context"]) < 5e-6
    assert relative(conditioner.null(), expected["cond.uncond"]) < 5e-6
    assert relative(ALPHA_BAR, expected["schedule.alphas_cumprod"]) < 5e-6


@torch.no_grad()
def test_reference_large_image(reference):
    unet, vae, conditioner, _, large = reference

    def condition_at(places):
        y, x = torch.tensor(places).T / 64
        return conditioner(interpolate_grid(large["embeddings"], y, x))

    contexts = condition_at(overlap_windows(128, 192, 64, 32))
    assert relative(contexts, large["contexts"]) < 1e-5

    canvas = sample_canvas(
        lambda latents, timestep, contexts: unet(latents, timestep, contexts).sample,
        condition_at,
        make_scheduler("ddim", TRAIN, 10),
        (3, 128, 192),
        window=64,
        stride=32,
        null=conditioner.null(),
        guidance=4.0,
        latents=large["initial_latents"],
    )
    assert relative(canvas, large["final_latents"]) < 1e-4

    bands = decode_canvas(lambda z: vae.decode(z).sample, canvas, factor=4, window=64, stride=32)
    image = np.concatenate([band for _, band in bands])
    difference = np.abs(image.astype(int) - large["image"][0].numpy().astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01  # rounding at the edge of a grey level, no more
