"""The large-image sampler on Gaussian data, whose exact noise is known: means, variances and covariances come out."""

import pytest
import torch
from helpers.denoisers import ALPHA_BAR, blocks, gaussian, no_contexts, pixels, pointwise, run, unblocks, unpixels

from largegen.sampling.noise import noise


def starting_from(mean, variance, field):
    """A canvas of x_T, where x_0 is N(mean, variance): sqrt(a) x_0 + sqrt(1 - a) eps."""
    a = ALPHA_BAR[-1]
    return a.sqrt() * mean + (a * variance + 1 - a).sqrt() * field


@pytest.mark.parametrize("windows", ["overlap", "shift"])
@pytest.mark.parametrize(
    ("name", "eta", "steps"),
    [("ddim", 0, 200), ("ddim", 0.5, 200), ("ddim", 1, 200), ("dpm++", 0, 50), ("unipc", 0, 50)],
)
def test_mean_and_variance_of_gaussian_data(name, eta, steps, windows):
    mean, variance = 0.7, 4.0  # wide, so that the last step's jump to the posterior mean hardly narrows it
    shape = (3, 96, 96)
    start = starting_from(mean, variance, noise(1, -1, 0, 0, 96, 96, 3))
    samples = run(
        pointwise(mean, variance),
        no_contexts,
        name,
        steps,
        shape,
        windows=windows,
        stride=12,
        guidance=1,
        eta=eta,
        latents=start,
    )
    n = samples.numel()
    assert abs(samples.mean() - mean) < 4 * (variance / n) ** 0.5
    assert abs(samples.var() / variance - 1) < 4 * (2 / n) ** 0.5 + 0.01


@pytest.mark.parametrize(
    ("windows", "stride", "split", "join"),
    [
        ("overlap", 8, blocks, unblocks),  # a stride at which windows cut no block
        ("overlap", 8, pixels, unpixels),
        ("shift", None, pixels, unpixels),
    ],
    ids=["overlap-blocks", "overlap-channels", "shift-channels"],
)
@pytest.mark.parametrize(
    ("name", "eta", "steps"), [("ddim", 0, 200), ("ddim", 1, 200), ("dpm++", 0, 50), ("unipc", 0, 50)]
)
def test_covariance_of_correlated_gaussian_data(name, eta, steps, windows, stride, split, join):
    mean = torch.tensor([0.5, -0.5, 1.0, 0.0])
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    covariance = root @ root.T + torch.eye(4)
    denoise = gaussian(mean, covariance, split, join)
    options = {"window": 16, "windows": windows, "stride": stride, "guidance": 1, "eta": eta, "batch_size": 64}
    samples = split(run(denoise, no_contexts, name, steps, (4, 96, 96), **options))
    n, variance = len(samples), covariance.diag()
    error = ((variance[:, None] * variance + covariance**2) / n).sqrt()  # of a sample covariance
    tolerance = 4 * error + 0.02 * (variance[:, None] * variance).sqrt()
    assert ((samples.mean(0) - mean).abs() < 4 * (variance / n).sqrt() + 0.01).all()
    assert ((samples.T.cov() - covariance).abs() < tolerance).all()
