"""A large image that agrees with its guide at a low magnification: sampling at two scales [Z, alg. 1].

fast (fast.py): draft -> guide, from the downsampled draft -> canvas under the guide
published (published.py): guide and tiles at once -> seams
"""

from dataclasses import replace

import torch
from torch import Tensor

from largegen.errors import InputError, ModelError
from largegen.models.model import Model
from largegen.sampling.cost import count_calls, count_decoded
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import Latents
from largegen.sampling.settings import ZOOM_STEPS, Sampling, Zooming
from largegen.sampling.zoom.fast import guide_steps, zoom_fast
from largegen.sampling.zoom.published import check_published, zoom_published


def level_of(model: Model, size: tuple[int, int]) -> int:
    """Return the level k whose single patch covers `size` (width, height) in px of the base.

    Raises:
        InputError: for any other size.
        ModelError: for a model without levels.
    """
    if model.levels == 1:
        raise ModelError(f"model {model.info.name}: knows one magnification only; zoom needs one trained at several")
    sizes = [model.tile_px * 2**k for k in range(1, model.levels)]
    if size[0] != size[1] or size[0] not in sizes:
        raise InputError(f"`size` {size[0]}x{size[1]}: this model zooms to {', '.join(map(str, sizes))} px, square")
    return 1 + sizes.index(size[0])


def resolve_zoom(sampling: Sampling, zooming: Zooming, model: Model) -> Sampling:
    """Fill in every setting whose default depends on the model or the method: see `generate.resolve_defaults`.

    The published method knows neither distilled models nor tuned steps.
    """
    if zooming.method == "published":
        sampling = replace(sampling, distilled=False, steps=sampling.steps or ZOOM_STEPS)
    return resolve_defaults(sampling, model, ZOOM_STEPS)


def zoom_latents(
    model: Model,
    features: Tensor,
    sampling: Sampling,
    zooming: Zooming,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> tuple[Tensor, Latents]:
    """Sample a guide and the image that agrees with it.

    Args:
        model: with several levels.
        features: (k, k, D), one embedding for each tile.
        sampling: as `generate.resolve_defaults` gives it.
        zooming: the method and its settings.
        checkpoint: what a killed run resumes from; its fingerprint stands for the model and the embeddings.
        progress: show progress bars.

    Returns:
        Latents of the guide (1, C, w, w) and of the image (1, C, k w, k w), float32: see `canvas.sample_canvas`.

    Raises:
        InputError: for a grid that is no level's, and for settings that the model cannot be sampled with.
    """
    side = len(features)
    level = level_of(model, (features.shape[1] * model.tile_px, side * model.tile_px))
    check_zooming(model, zooming)
    features = torch.as_tensor(features).to(model.device)
    if checkpoint is not None:
        settings = f"{replace(sampling, batch_size=0)} {zooming}"
        checkpoint = replace(checkpoint, fingerprint=f"{checkpoint.fingerprint} {settings}")
    if zooming.method == "fast":
        return zoom_fast(model, features, level, sampling, checkpoint=checkpoint, progress=progress)
    return zoom_published(model, features, level, sampling, zooming, checkpoint=checkpoint, progress=progress)


def check_zooming(model: Model, zooming: Zooming) -> None:
    """Raise InputError for settings that this model cannot be sampled with."""
    if zooming.method == "published":
        check_published(model, zooming)


def count_work(model: Model, side: int, sampling: Sampling, zooming: Zooming) -> dict[str, int]:
    """Count what an image of side x side tiles costs before it is decoded.

    Args:
        model: whose denoiser samples.
        side: tiles per side.
        sampling: as `generate.resolve_defaults` gives it.
        zooming: the method and its settings.

    Returns:
        `denoiser_calls`, `decodes` and `encodes`, of one window each.
    """
    length = side * model.window
    on_canvas = zooming.canvas_sampling(sampling, model.window)
    if zooming.method == "fast":
        calls = 2 * count_calls(on_canvas, model.window, length, length) + sampling.calls(
            range(sampling.steps)[-guide_steps(sampling) :]
        )
        return {
            "denoiser_calls": calls,
            "decodes": 1 + count_decoded(sampling, model.window, length, length),
            "encodes": 1,
        }
    tiles, inner = sampling.steps * side**2, zooming.inner_steps
    seams = count_calls(replace(on_canvas, steps=zooming.seam_steps), model.window, length, length)
    return {
        "denoiser_calls": sampling.calls(range(1)) * (sampling.steps + tiles * (1 + 2 * inner)) + seams,
        "decodes": sampling.steps + tiles * inner,
        "encodes": 2 * tiles * inner,
    }
