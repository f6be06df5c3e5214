"""The functions that the samplers are given, and classifier-free guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from largegen.errors import InputError
from largegen.sampling.windows import Place

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
