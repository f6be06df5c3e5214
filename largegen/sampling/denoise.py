"""The denoiser on the windows of a canvas: what samplers are given, guidance and batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from largegen.errors import InputError
from largegen.sampling.windows import Place

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (latents (B, C, h, w), timestep, contexts (B, T, D)) -> eps
ConditionAt = Callable[[list[Place]], Tensor]  # N places on the canvas -> contexts (N, T, D)
Correct = Callable[[Tensor], Tensor]  # predicted clean latents (1, C, H, W) -> better ones


@runtime_checkable
class CorrectRows(Protocol):
    """A `Correct` that may be asked for some rows alone."""

    by_rows: bool  # whether a row's correction depends on that row alone

    def __call__(self, clean: Tensor) -> Tensor:
        """Correct predicted clean latents, (1, C, H, W)."""
        ...

    def rows(self, top: int, clean: Tensor) -> Tensor:
        """Correct rows of them from `top` on, (1, C, n, W), where `by_rows`."""
        ...


@runtime_checkable
class CorrectOfStep(Protocol):
    """A `Correct` that differs from step to step."""

    def at(self, step: int) -> Correct:
        """Return that of a step, from 0."""
        ...


def is_by_rows(correct: Correct) -> TypeGuard[CorrectRows]:
    """Tell whether rows can be corrected each by itself."""
    return isinstance(correct, CorrectRows) and correct.by_rows


@runtime_checkable
class TakesGuidance(Protocol):
    """A denoiser that knows guidance by itself, in one call: a distilled model."""

    def under(self, scale: float) -> Denoise:
        """Return the prediction under a guidance scale. Raises InputError for one that it does not know."""
        ...


def guided(
    denoise: Denoise | TakesGuidance,
    null: Tensor | None,
    scale: float,
    between: tuple[int, int] | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """Apply classifier-free guidance: eps = eps_null + scale * (eps_cond - eps_null) [L, sec. 3].

    Both halves go through `denoise` as one batch; at scale 1 only the conditional half is computed, at scale 0 only the
    other.

    Args:
        denoise: without guidance; or one that takes it, which is asked for it.
        null: (1, T, D) null condition; None only where `scale` is 1.
        scale: of the guidance.
        between: the least and the greatest timestep that is guided; None: all are.
        rescale: part, 0 to 1, by which the guided noise of a window is brought back to the spread of that under its
            condition (Lin et al. 2024).

    Raises:
        InputError: where the null condition is missing.
    """
    if isinstance(denoise, TakesGuidance):
        return denoise.under(scale)
    if scale == 1:
        return denoise
    if null is None:
        raise InputError(f"`guidance` {scale}: needs the model's null condition")

    def unconditional(latents: Tensor, timestep: Tensor, contexts: Tensor) -> Tensor:
        return denoise(latents, timestep, null.to(contexts).expand(len(latents), -1, -1))

    def both(latents: Tensor, timestep: Tensor, contexts: Tensor) -> Tensor:
        nulls = null.to(contexts).expand(len(latents), -1, -1)
        eps = denoise(torch.cat([latents, latents]), timestep, torch.cat([nulls, contexts]))
        eps_null, eps_cond = eps.float().chunk(2)
        result = eps_null + scale * (eps_cond - eps_null)
        if rescale:
            spread = (part.std((1, 2, 3), keepdim=True) for part in (eps_cond, result))
            result = result * (1 - rescale + rescale * next(spread) / next(spread))
        return result

    guided_ones = unconditional if scale == 0 else both
    if between is None:
        return guided_ones
    low, high = between

    def within(latents: Tensor, timestep: Tensor, contexts: Tensor) -> Tensor:
        return (guided_ones if low <= int(timestep) <= high else denoise)(latents, timestep, contexts)

    return within


MAX_KEPT_CONTEXT_VALUES = 2**26  # up to 256 MB of the windows' contexts are kept from step to step


class WindowBatches:
    """Predicts the noise in windows of a canvas, one batch at a time.

    Args:
        denoise: predicts the noise of a batch of windows, on `device`.
        condition_at: contexts of windows, on `device`, given their places.
        device: of the network; the canvas may lie elsewhere.
        on_windows: is told how many windows are done, after each batch.
    """

    def __init__(
        self,
        denoise: Denoise,
        condition_at: ConditionAt,
        device: torch.device | str = "cpu",
        on_windows: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.denoise = denoise
        self.condition_at = condition_at
        self.device = device
        self.on_windows = on_windows

    def __call__(
        self, batches: Iterable[list[Place]], window_at: Callable[[Place], Tensor], timestep: Tensor
    ) -> Iterator[tuple[Place, Tensor]]:
        """Yield each window's place and its predicted noise (C, h, w) float32, on the canvas' device, in their order.

        Args:
            batches: (top, left) of the windows, those of a batch together.
            window_at: cuts a window (C, h, w) out of the canvas.
            timestep: of the scheduler.
        """
        for places in batches:
            windows = torch.stack([window_at(place) for place in places])
            eps = self.denoise(windows.to(self.device), timestep, self.condition_at(places)).float()
            yield from zip(places, eps.to(windows.device), strict=True)
            self.on_windows(len(places))


def keep_contexts(condition_at: ConditionAt) -> ConditionAt:
    """Compute the contexts of each batch of windows once, and keep them for the next step while there is room."""
    kept: dict[tuple[Place, ...], Tensor] = {}

    def contexts_of(places: list[Place]) -> Tensor:
        key = tuple(places)
        if key in kept:
            return kept[key]
        contexts = condition_at(places)
        if (len(kept) + 1) * contexts.numel() <= MAX_KEPT_CONTEXT_VALUES:
            kept[key] = contexts
        return contexts

    return contexts_of
