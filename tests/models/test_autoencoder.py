"""The residual autoencoder: principal components first, corrections on top, saved and loaded like any other."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from largegen.models.autoencoder import Autoencoder, ResidualAutoencoder, load_autoencoder
from largegen.models.storage import save_network


def patterned(rank, count=64, side=32, noise=0.0):
    """Images whose squares of 8 px are combinations of `rank` patterns."""
    generator = torch.Generator().manual_seed(rank)
    patterns = torch.randn(rank, 192, generator=generator)
    amounts = torch.randn(count, rank, side // 8, side // 8, generator=generator)
    squares = torch.einsum("nrhw,rc->nchw", amounts, patterns) / 10 + 0.1
    return F.pixel_shuffle(squares, 8) + noise * torch.randn(count, 3, side, side, generator=generator)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return ResidualAutoencoder(4, (8, 16), 1, latent_channels=6).eval()


def reconstruct(vae, images):
    with torch.inference_mode():
        return vae.decode(vae.encode(images).latent_dist.mode()).sample


def test_fitted_to_images_of_as_many_components_it_returns_them(vae):
    images = patterned(rank=6)
    vae.fit_linear(images)
    assert reconstruct(vae, images) == pytest.approx(images, abs=1e-4)


def test_fitted_to_richer_images_it_is_the_best_linear_code(vae):
    images = patterned(rank=6, noise=0.02) + patterned(rank=20) / 4
    vae.fit_linear(images)
    squares = F.pixel_unshuffle(images, 8).movedim(1, -1).flatten(0, -2)
    lost = torch.linalg.eigvalsh(torch.cov(squares.T.double(), correction=0))[:-6].sum()
    error = (reconstruct(vae, images) - images).square().mean() * 192
    assert error.item() == pytest.approx(lost.item(), rel=1e-3)


def test_its_latents_have_unit_variance_at_first(vae):
    images = patterned(rank=20, noise=0.02)
    vae.fit_linear(images)
    with torch.inference_mode():
        std, mean = torch.std_mean(vae.encode(images).latent_dist.mode(), (0, 2, 3))
    assert mean == pytest.approx(torch.zeros(6), abs=1e-3) and std == pytest.approx(torch.ones(6), abs=1e-2)


def test_both_corrections_are_learned(vae):
    images = patterned(rank=20)
    vae.fit_linear(images)
    before = (reconstruct(vae, images) - images).square().mean().item()
    optimizer = torch.optim.Adam(vae.trunk.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (vae.decode(vae.encode(images).latent_dist.mode()).sample - images).square().mean().backward()
        optimizer.step()
    assert (reconstruct(vae, images) - images).square().mean().item() < 0.9 * before
    assert all(last.weight.abs().max() > 0 for last in (vae.trunk.encoder.conv_out, vae.trunk.decoder.conv_out))


def test_it_is_saved_and_loaded(vae, tmp_path):
    vae.fit_linear(patterned(rank=20))
    nn.init.normal_(vae.trunk.decoder.conv_out.weight)
    save_network(vae, tmp_path / "vae", None)
    autoencoder, images = load_autoencoder(tmp_path), patterned(rank=3, count=2)
    assert (autoencoder.factor, autoencoder.channels) == (8, 6)
    assert autoencoder.fingerprint == Autoencoder(vae).fingerprint
    latents = autoencoder.encode(images)
    assert latents.shape == (2, 6, 4, 4)
    assert autoencoder.decode(latents) == pytest.approx(reconstruct(vae, images), abs=1e-4)
