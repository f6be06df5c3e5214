"""The denoiser on the windows of a canvas: what samplers are given, guidance, batches, and sharing among processes."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from largegen.errors import InputError
from largegen.sampling.windows import Place, span

if TYPE_CHECKING:
    from accelerate import PartialState

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # (latents (B, C, h, w), timestep, contexts (B, T, D)) -> eps
ConditionAt = Callable[[list[Place]], Tensor]  # N places on the canvas -> contexts (N, T, D)
Correct = Callable[[Tensor], Tensor]  # predicted clean latents (1, C, H, W) -> better ones


def guided(denoise: Denoise, null: Tensor | None, scale: float) -> Denoise:
    """Apply classifier-free guidance: eps = eps_null + scale * (eps_cond - eps_null) [L, sec. 3].

    Both halves go through `denoise` as one batch; at scale 1 only the conditional half is computed, at scale 0 only the
    other.

    Args:
        denoise: without guidance.
        null: (1, T, D) null condition; None only where `scale` is 1.
        scale: of the guidance.

    Raises:
        InputError: where the null condition is missing.
    """
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
        return eps_null + scale * (eps_cond - eps_null)

    return unconditional if scale == 0 else both


MAX_KEPT_CONTEXT_VALUES = 2**26  # up to 256 MB of the windows' contexts are kept from step to step


class WindowBatches:
    """Predicts the noise in windows of a canvas, one batch at a time.

    In each round every process takes one batch, so that batches are the same for any number of processes.

    Args:
        denoise: predicts the noise of a batch of windows, on `device`.
        condition_at: contexts of windows, on `device`, given their places.
        batch_size: windows at once.
        device: of the network; the canvas may lie elsewhere.
        processes: accelerate's processes that share the windows; each is given all of the predictions.
        on_windows: is told how many windows are done, after each round.
    """

    def __init__(
        self,
        denoise: Denoise,
        condition_at: ConditionAt,
        batch_size: int,
        device: torch.device | str = "cpu",
        processes: "PartialState | None" = None,
        on_windows: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.denoise = denoise
        self.condition_at = condition_at
        self.batch_size = batch_size
        self.device = device
        self.processes = processes
        self.on_windows = on_windows

    def __call__(
        self, canvas: Tensor, places: list[Place], size: tuple[int, int], timestep: Tensor
    ) -> Iterator[Tensor]:
        """Yield the predicted noise (C, h, w) of each window, in the order of `places`, on the canvas' device.

        Args:
            canvas: (1, C, H, W) float32; windows that stick out continue at the other edge.
            places: (top, left) of the windows.
            size: (height, width) of a window, in latents.
            timestep: of the scheduler.
        """
        around = canvas.shape[-2], canvas.shape[-1]
        rank, world = (self.processes.process_index, self.processes.num_processes) if self.processes else (0, 1)
        for start in range(0, len(places), self.batch_size * world):
            of_all = places[start : start + self.batch_size * world]
            own = of_all[rank * self.batch_size :][: self.batch_size]
            if own:
                windows = torch.stack([canvas[(0, slice(None), *span(place, size, around))] for place in own])
                eps = self.denoise(windows.to(self.device), timestep, self.condition_at(own)).float()
            else:
                eps = torch.zeros(0, canvas.shape[1], *size)
            if self.processes and world > 1:
                eps = self._gather(eps, self.processes.device)[: len(of_all)]  # only the last round's end is padding
            yield from eps.to(canvas.device)
            self.on_windows(len(of_all))

    def _gather(self, eps: Tensor, device: torch.device) -> Tensor:
        """Give every process the predictions of all, padded to whole batches: (batch_size * processes, C, h, w)."""
        from accelerate.utils import gather

        padded = torch.zeros(self.batch_size, *eps.shape[1:], device=device)
        padded[: len(eps)] = eps
        return gather(padded)


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
