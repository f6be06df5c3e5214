"""From embeddings to an image in memory."""

import numpy as np
import pytest
import torch
from helpers.images import levels_apart
from helpers.models import WIDTH, flat_grid

from largegen import generate
from largegen.errors import InputError
from largegen.sampling.cost import count_calls
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.noise import noise
from largegen.sampling.schedulers import SCHEDULERS
from largegen.sampling.settings import SCHEDULERS as NAMES
from largegen.sampling.settings import Sampling


def test_the_settings_names_are_the_samplers():
    assert tuple(SCHEDULERS) == NAMES


def test_the_default_size_is_all_of_the_grid(model, grid):
    image = generate(model, grid, steps=1)
    assert image.shape == (192, 256, 3) and image.dtype == np.uint8
    assert image.std() > 20  # not flat, so that what follows compares something


@pytest.mark.parametrize(("size", "shape"), [(64, (64, 64, 3)), ((136, 64), (64, 136, 3))])
def test_sizes(model, grid, size, shape):
    assert generate(model, grid.features, size=size, steps=1).shape == shape


def test_latents_are_what_the_image_is_decoded_from(model, grid):
    latents = generate(model, grid, size=64, steps=2, output="latent")
    assert latents.shape == (1, 4, 8, 8) and latents.dtype == torch.float32
    decoded = ((model.autoencoder.decode(latents).clamp(-1, 1) + 1) * 127.5).byte()
    image = generate(model, grid, size=64, steps=2)
    assert levels_apart(image, decoded[0].permute(1, 2, 0).numpy()) <= 1


def test_the_seed_decides(model, grid):
    first = generate(model, grid, steps=2, seed=1)
    assert np.array_equal(first, generate(model, grid, steps=2, seed=1))
    assert levels_apart(first, generate(model, grid, steps=2, seed=2)) > 20


def test_a_generator_gives_the_seed(model, grid):
    def draw(generator):
        return generate(model, grid, steps=1, generator=generator, output="latent")

    generator = torch.Generator().manual_seed(5)
    first, second = draw(generator), draw(generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, draw(torch.Generator().manual_seed(5)))


def test_latents_to_start_from(model, grid):
    start = noise(3, -1, 0, 0, 24, 32, 4)
    found = generate(model, grid, steps=2, latents=start, output="latent", windows="overlap")
    assert torch.equal(found, generate(model, grid, steps=2, seed=3, output="latent", windows="overlap"))
    with pytest.raises(InputError, match="latents"):
        generate(model, grid, steps=1, latents=start[..., 1:])


def test_eta_adds_noise(model, grid):
    still = generate(model, grid, steps=3, output="latent")
    assert not torch.equal(still, generate(model, grid, steps=3, eta=1.0, output="latent"))


@pytest.mark.parametrize("scheduler", NAMES)
@pytest.mark.parametrize("windows", ["overlap", "shift"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.0])
def test_the_same_image_for_every_batch_size(model, scheduler, windows, guidance):
    grid = flat_grid(model, 2, 3)
    options = {"steps": 3, "scheduler": scheduler, "windows": windows, "guidance": guidance}
    first = generate(model, grid, batch_size=1, **options)
    assert first.std() > 20
    for batch_size in (3, 8):
        assert levels_apart(first, generate(model, grid, batch_size=batch_size, **options)) <= 1


def test_the_embeddings_matter_but_not_at_guidance_0(model, grid):
    other = flat_grid(model, 3, 4, seed=1)
    same = {"steps": 2, "output": "latent"}
    assert not torch.equal(generate(model, grid, **same), generate(model, other, **same))
    assert torch.equal(generate(model, grid, guidance=0, **same), generate(model, other, guidance=0, **same))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size.* 0x0"),
        ({"size": 65}, "multiples of 8"),
        ({"size": 512}, "cover 256x192"),
        ({"output": "pixels"}, "pixels"),
        ({"steps": -1}, "`steps` -1"),
        ({"steps": 61}, "`steps` 61"),
        ({"scheduler": "euler"}, "ddim, dpm"),
        ({"windows": "none"}, "overlap, shift"),
        ({"eta": 1.5}, "`eta` 1.5"),
        ({"eta": 0.5, "scheduler": "unipc"}, "`eta` 0.5"),
        ({"guidance": float("nan")}, "`guidance` nan"),
        ({"guidance": -1.0}, "`guidance` -1"),
        ({"windows": "overlap", "stride": 9}, "`stride` 9: must be between 1 and the model's window of 8 latents"),
        ({"windows": "overlap", "stride": -1}, "`stride` -1"),
        ({"windows": "shift", "stride": 4}, "only with `windows` overlap"),
        ({"batch_size": -1}, "`batch_size` -1"),
    ],
)
def test_wrong_settings(model, grid, options, message):
    with pytest.raises(InputError, match=message):
        generate(model, grid, **options)


def test_embeddings_of_another_shape(model):
    with pytest.raises(InputError, match=rf"\(rows, columns, {WIDTH}\)"):
        generate(model, torch.zeros(3, 4, WIDTH + 1))
    with pytest.raises(InputError, match="tiles of 64 px"):
        generate(model, flat_grid(model, 2, 2, tile_px=256))


def test_a_stride_need_not_divide_the_window(model, grid):
    assert generate(model, grid, steps=1, windows="overlap", stride=5).shape == (192, 256, 3)


def test_defaults_are_filled_in(model):
    found = resolve_defaults(Sampling(windows="overlap"), model)
    assert (found.stride, found.decode_stride, found.decode_margin, found.batch_size) == (4, 4, 1, 8)
    assert resolve_defaults(found, model) == found


def test_calls_are_counted():
    sampling = Sampling(steps=2, windows="overlap", stride=4, guidance=1.0)
    assert count_calls(sampling, 8, 16, 24) == 2 * 3 * 5
    skip = np.zeros((16, 24), bool)
    skip[:, 8:] = True
    assert count_calls(sampling, 8, 16, 24, skip) == 2 * 3 * 2
