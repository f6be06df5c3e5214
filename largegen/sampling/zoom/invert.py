"""The embeddings under an image that has none: those under which the denoiser knows its noise best [Z].

The method knows no network: what predicts the noise under embeddings is passed in as a function.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from largegen.sampling.settings import Inversion

FIRST, LAST = 950, 50  # timesteps between which noise is added [Z]
ALIKE = 0.05  # weight of the embeddings' likeness in the loss [Z]
ROUND = 10  # steps from a view over which the timesteps run once, so that the losses of rounds can be compared
PATIENCE = 3  # rounds without a gain, after which an image is done
GAIN = 0.005  # part of the loss by which a round must be better than all before

# (noisy latents (B, C, h, w), timestep, embeddings (B, k, k, D)) -> the noise, with gradients to the embeddings
PredictUnder = Callable[[Tensor, int, Tensor], Tensor]


def invert(
    predict: PredictUnder,
    schedule: DDPMScheduler,
    latents: Tensor,
    start: Tensor,
    noise_at: Callable[[int], Tensor],
    inversion: Inversion,
    on_steps: Callable[[int], object] = lambda count: None,
) -> tuple[Tensor, list[int]]:
    """Search the embeddings under each of a batch of images by Adam; one is found alike, whatever is beside it.

    From noise, the timesteps go down once from 950 to 50, as published. From a view they run round after round, and
    an image is done when its loss has not gained for three of them.

    Args:
        predict: the noise under embeddings, without guidance.
        schedule: that the denoiser was trained with.
        latents: of the images, (B, C, h, w).
        start: embeddings to start from, (B, k, k, D), of any length.
        noise_at: standard normal noise (B, C, h, w) of a step.
        inversion: steps, rate and where it starts.
        on_steps: is told the images' steps as they are done, or not needed.

    Returns:
        Embeddings (B, k, k, D), each with mean 0 and deviation 1 over D; and the steps that each image took.
    """
    found = [grid.clone().requires_grad_() for grid in standardized(start)]
    optimizer = torch.optim.Adam(found, lr=inversion.invert_rate)
    watches = [_Watch() for _ in found]
    taken = [0] * len(found)
    for step, timestep in enumerate(timesteps(inversion)):
        going = [n for n, watch in enumerate(watches) if not watch.done]
        on_steps(len(found) - len(going))
        if not going:
            continue
        kept = float(schedule.alphas_cumprod[timestep])
        noise = noise_at(step)[going]
        noisy = kept**0.5 * latents[going] + (1 - kept) ** 0.5 * noise
        grids = standardized(torch.stack([found[n] for n in going]))
        error = (predict(noisy, timestep, grids) - noise.to(grids.device)).square().flatten(1).mean(1)
        losses = kept**0.5 * (1 - kept) * error - ALIKE * likeness(grids)
        optimizer.zero_grad(set_to_none=True)
        # Adam does not see the factor; half precision would lose the small numbers of a mean.
        (losses.sum() * latents[0].numel()).backward()
        optimizer.step()
        for n, loss in zip(going, losses.tolist(), strict=True):
            taken[n] += 1
            if inversion.start == "view":
                watches[n].see(loss)
        on_steps(len(going))
    return standardized(torch.stack([grid.detach() for grid in found])), taken


def timesteps(inversion: Inversion) -> list[int]:
    """List the timestep of each step: once from 950 down to 50, or from a view round after round."""
    once = inversion.invert_steps if inversion.start == "noise" else ROUND
    down = torch.linspace(FIRST, LAST, max(1, once)).round().long().tolist()
    return [down[step % len(down)] for step in range(inversion.invert_steps)]


def standardized(embeddings: Tensor) -> Tensor:
    """Give embeddings (..., D) the mean 0 and the deviation 1 over D that the Summarizer gives them anyway."""
    centred = embeddings.float() - embeddings.float().mean(-1, keepdim=True)
    return centred / centred.std(-1, keepdim=True).clamp(min=1e-12)


def likeness(grids: Tensor) -> Tensor:
    """Compute the mean cosine of all pairs of a grid's embeddings, (B, h, w, D) -> (B,)."""
    flat = F.normalize(grids.flatten(1, 2), dim=-1)
    pairs = flat.shape[1] * (flat.shape[1] - 1)
    return (flat.sum(1).square().sum(-1) - flat.shape[1]) / max(1, pairs)


@dataclass
class _Watch:
    """Whether an image's loss, averaged over rounds, still falls."""

    total: float = 0.0
    steps: int = 0
    best: float = math.inf
    waited: int = 0

    @property
    def done(self) -> bool:
        return self.waited >= PATIENCE

    def see(self, loss: float) -> None:
        self.total, self.steps = self.total + loss, self.steps + 1
        if self.steps < ROUND:
            return
        mean = self.total / self.steps
        self.waited = 0 if mean < self.best - GAIN * abs(self.best) or self.best == math.inf else self.waited + 1
        self.best = min(self.best, mean)
        self.total, self.steps = 0.0, 0
