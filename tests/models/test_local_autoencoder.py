"""The local autoencoder: the best linear one before training, and nothing but what is near matters."""

import pytest
import torch

from largegen.models.autoencoder import Autoencoder, load_autoencoder
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.storage import save_network

REACH_PX = 8 * 12  # farther than any pixel of the tiny network below sees


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return LocalAutoencoder(2, (8, 8, 16), (1, 1, 1), (1, 1, 1), latent_channels=6, output_channels=4).eval()


@pytest.fixture
def trained(vae):
    """The network with weights that are nowhere zero, as after training."""
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return vae


def smooth_images(count=48, side=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, side // 8, side // 8, generator=generator) / 3
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)


def reconstruct(vae, images):
    with torch.inference_mode():
        return vae.decode(vae.encode(images).latent_dist.mode()).sample


def test_before_training_it_is_a_good_linear_code(vae):
    vae.fit_linear(smooth_images())
    images = smooth_images(8, seed=1)
    error = (reconstruct(vae, images) - images)[..., 8:-8, 8:-8].square().mean()
    assert error < 0.05 * images.var()


def test_latents_have_about_unit_variance_before_training(vae):
    images = smooth_images()
    vae.fit_linear(images)
    with torch.inference_mode():
        std = vae.encode(images).latent_dist.mode().std((0, 2, 3))
    assert std == pytest.approx(torch.ones(6), abs=0.05)


def test_a_far_pixel_changes_nothing(trained):
    images = smooth_images(1, side=256)
    changed = images.clone()
    changed[..., :16, :16] += 1
    before, after = reconstruct(trained, images), reconstruct(trained, changed)
    far = slice(2 * REACH_PX + 16, None)
    assert torch.equal(before[..., far, far], after[..., far, far])
    assert not torch.equal(before[..., :16, :16], after[..., :16, :16])


def test_a_part_is_decoded_as_it_is_in_the_whole(trained):
    """At the canvas' corner, in its middle, and nearer to its edge than the decoder's reach."""
    latents = torch.randn(2, 6, 20, 26, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        whole = trained.decode(latents).sample
        for rows, cols in (((0, 5), (0, 4)), ((8, 11), (9, 15)), ((3, 18), (20, 26)), ((0, 20), (0, 26))):
            seen = [
                (max(0, start - trained.reach), min(end + trained.reach, size))
                for (start, end), size in zip((rows, cols), (20, 26), strict=True)
            ]
            around = tuple(
                n
                for (start, end), (first, last) in zip((rows, cols), seen, strict=True)
                for n in (start - first, last - end)
            )
            part = trained.decode(latents[..., slice(*seen[0]), slice(*seen[1])], around).sample
            expected = whole[..., 8 * rows[0] : 8 * rows[1], 8 * cols[0] : 8 * cols[1]]
            assert part.shape == expected.shape
            assert part == pytest.approx(expected, abs=1e-5)


def test_a_latent_counts_as_far_as_the_reach_and_no_farther(trained):
    latents = torch.randn(1, 6, 21, 21, generator=torch.Generator().manual_seed(3))
    changed = latents.clone()
    changed[..., 10, 10] += 5
    with torch.inference_mode():
        moved = (trained.decode(latents).sample != trained.decode(changed).sample).any(1)[0]
    rows, cols = (moved.unflatten(0, (21, 8)).unflatten(2, (21, 8)).any(3).any(1)).nonzero().T
    assert trained.reach == 6
    for places in (rows, cols):
        assert 4 <= 10 - places.min() <= 6
        assert 4 <= places.max() - 10 <= 6


def test_an_image_in_two_halves_is_the_image(trained):
    latents = torch.randn(1, 6, 40, 8, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = trained.decode(latents).sample
        upper, lower = trained.decode(latents[:, :, :32]).sample, trained.decode(latents[:, :, 8:]).sample
    seam = 20 * 8
    assert torch.cat([upper[:, :, :seam], lower[:, :, seam - 64 :]], 2) == pytest.approx(whole, abs=1e-4)


def test_the_posterior_has_the_noise_of_training(vae):
    posterior = vae.encode(torch.zeros(1, 3, 32, 32)).latent_dist
    assert posterior.std.detach() == pytest.approx(torch.full((1, 6, 4, 4), vae.config.latent_noise))


def test_saved_and_loaded_it_gives_the_same(trained, tmp_path):
    trained.register_to_config(latents_mean=[0.1] * 6, latents_std=[2.0] * 6)
    save_network(trained, tmp_path / "vae", None)
    loaded, own = load_autoencoder(tmp_path), Autoencoder(trained)
    images = smooth_images(1)
    assert loaded.factor == 8
    assert torch.equal(loaded.encode(images), own.encode(images))
    assert torch.equal(loaded.decode(own.encode(images)), own.decode(own.encode(images)))


def test_channels_count_by_what_they_move(vae):
    with torch.no_grad():
        vae.synthesis.weight.zero_()
        vae.synthesis.weight[:, 0] = 1.0
    assert Autoencoder(vae).importance.flatten().tolist() == pytest.approx([6, 0, 0, 0, 0, 0])
