"""Search for the few steps of a model that come nearest to its many, at equal seeds, in the space of latents."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.models.denoiser import TIMESTEPS
from largegen.models.model import Model
from largegen.models.tuned import Tuned
from largegen.sampling.denoise import guided
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import STEPS

log = logging.getLogger(__name__)

EVEN = 20  # even steps, as near as which few ones shall come
FEW = (8, 10, 12)  # numbers of steps that are tried
WARPS = (1.0, 1.5, 2.0, 2.5)  # exponents by which steps move towards the clean end
RESCALES = (0.3, 0.6)
NO_WORSE = 1.02  # of the distance, that steps without guidance may cost
BATCH = 8
NO_NOISE: dict[str, Any] = {}  # DDIM adds none


@dataclass(frozen=True)
class Way:
    """Steps that are tried; the fields are those of `Tuned`."""

    timesteps: tuple[int, ...]
    guided: tuple[int, int]
    rescale: float = 0.0


def warped(steps: int, exponent: float) -> Way:
    """Lay timesteps: even ones for the exponent 1, more of them near the clean end for a larger one."""
    found: list[int] = []
    for number in range(1, steps + 1):
        found.append(max(round(TIMESTEPS * (number / steps) ** exponent) - 1, found[-1] + 1 if found else 0))
    return Way(tuple(found[::-1]), (0, steps))


def tune(model: Model, contexts: Tensor, guidance: float, seed: int = 0, progress: bool = False) -> Tuned:
    """Find few steps, which of them need guidance, and how far its noise is rescaled.

    The fewest steps are taken that come as near to 50 as 20 even ones do; else 12. Then guidance is left out of the
    last and the first ones while that costs nothing, which saves a call each; then rescaling is tried.

    Args:
        model: Whose denoiser samples.
        contexts: (N, T, D), tokens of patches: 16 or more.
        guidance: Scale of the guidance.
        seed: Of the noise.
        progress: Show a progress bar.
    """
    search = _Search(model, contexts, guidance, seed, progress)
    with search.bar:
        goal = search.distance(warped(EVEN, 1.0))
        ways = {exponent: warped(FEW[1], exponent) for exponent in WARPS}
        exponent = min(WARPS, key=lambda e: search.distance(ways[e]))
        way = next((w for n in FEW if search.distance(w := warped(n, exponent)) <= goal), warped(FEW[-1], exponent))
        way = _less_guided(search, way) if guidance not in (0, 1) else way
        if guidance not in (0, 1):
            way = min((way, *(replace(way, rescale=r) for r in RESCALES)), key=search.distance)
    return Tuned(**asdict(way), guidance=guidance, distance=search.distance(way), distance_of_20=goal)


def _less_guided(search: "_Search", way: Way) -> Way:
    most = NO_WORSE * search.distance(way)
    for first_step, last_step in ((0, -1), (1, 0)):  # at the end, then at the beginning
        while way.guided[1] - way.guided[0] > 1:
            less = replace(way, guided=(way.guided[0] + first_step, way.guided[1] + last_step))
            if search.distance(less) > most:
                break
            way = less
    return way


class _Search:
    """Distances of ways from the model's own 50 steps, each computed once."""

    def __init__(self, model: Model, contexts: Tensor, guidance: float, seed: int, progress: bool):
        self.model, self.contexts, self.guidance, self.seed = model, contexts, guidance, seed
        self.bar = tqdm(desc="tune", unit="way", disable=None if progress else True)
        self._known: dict[Way, float] = {}
        self._goal = self._features(warped(STEPS, 1.0))

    def distance(self, way: Way) -> float:
        """Return the Fréchet distance of a way."""
        if way not in self._known:
            self._known[way] = frechet_distance_of_features(self._features(way), self._goal)
            log.info("%s: %.5f", way, self._known[way])
        return self._known[way]

    def _features(self, way: Way) -> np.ndarray:
        """Sample patches: every latent, and its difference from that to the right, (N h (w - 1), 2 C)."""
        model, side, found = self.model, self.model.window, []
        scheduler = make_scheduler("ddim", model.scheduler, len(way.timesteps), way.timesteps)
        between = way.timesteps[way.guided[1] - 1], way.timesteps[way.guided[0]]
        denoise = guided(model.eps, model.null_context(), self.guidance, between, way.rescale)
        for first, context in enumerate(self.contexts.split(BATCH)):
            x = torch.cat(
                [
                    noise(self.seed, INITIAL, 0, (first * BATCH + n) * side, side, side, model.autoencoder.channels)
                    for n in range(len(context))
                ]
            ).to(model.device)
            for timestep in scheduler.timesteps:
                x = scheduler.step(denoise(x, timestep, context), timestep, x, **NO_NOISE).prev_sample
            both = torch.cat([x[..., 1:], x[..., 1:] - x[..., :-1]], 1)
            found.append(both.movedim(1, -1).flatten(0, -2).cpu().numpy())
        self.bar.update()
        return np.concatenate(found)


def some_contexts(model: Model, features: Iterable[np.ndarray], count: int, seed: int) -> Tensor:
    """Choose `count` embeddings of all (N, D) at random, and return their tokens (count, T, D')."""
    rows = np.concatenate(list(features))
    chosen = np.random.default_rng(seed).choice(len(rows), min(count, len(rows)), replace=False)
    return model.context(torch.from_numpy(rows[chosen]).float())


def report(tuned: Tuned) -> dict[str, Any]:
    """Describe what was found, with the calls of the denoiser for a window."""
    first, last = tuned.guided
    calls = len(tuned.timesteps) + (0 if tuned.guidance in (0, 1) else last - first)
    return {**asdict(tuned), "calls": calls}
