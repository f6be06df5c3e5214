"""A grid of embeddings that is of no slide: sampled from a prior, of any size, as latents are."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.embeddings.file import keep_existing, write_embeddings
from largegen.embeddings.grid import EmbeddingGrid
from largegen.embeddings.settings import EmbeddingSettings, as_colour, trident_attributes
from largegen.errors import EmbeddingFileError, InputError, OutputError
from largegen.models.directory import PRIOR
from largegen.models.grid_prior import NO_LABEL, SCHEDULE, GridPrior, centred, load_prior
from largegen.models.model import Model
from largegen.models.text import load_text_encoder
from largegen.models.token_prior import FOLDER as CDM
from largegen.runtime.distributed import process_group, run_on_main
from largegen.runtime.files import atomic
from largegen.runtime.fingerprints import network_checksum
from largegen.runtime.lock import lock
from largegen.runtime.outputs import check_writable
from largegen.sampling.canvas import sample_canvas
from largegen.sampling.keep import Keep
from largegen.sampling.noise import GOING_ON, noise
from largegen.sampling.rows import in_memory
from largegen.sampling.schedulers import make_scheduler
from largegen.sampling.settings import Imagining
from largegen.slides.resolution import mag_of

ROUNDS, ROUND = 4, 0.7  # how often a grid is harmonised with what is known of it, each time by this part of the steps


def find_prior(model: Model, imagining: Imagining) -> GridPrior:
    """Load the prior that is asked for, else the model's own.

    Raises:
        InputError: Where the model has none.
        ModelError: Where that which is asked for is none.
    """
    own = (model.directory or Path()) / PRIOR
    if imagining.prior is None and model.directory and not own.is_dir() and (model.directory / CDM).is_dir():
        raise InputError(
            f"model {model.info.name} has a CDM, which invents the condition of one patch at a time; those of a large"
            " image must agree: give a grid prior of `largegen train-prior` as `prior`, or a reference"
        )
    if imagining.prior is None and not (model.directory and own.is_dir()):
        raise InputError(
            f"give `ref` SLIDE or `embeddings` FILE.h5: model {model.info.name} has no prior of its own that could"
            " do without; `largegen train-prior` makes one for `prior`"
        )
    return load_prior(imagining.prior or own, model.device)


def imagine_file(
    prior: GridPrior,
    imagining: Imagining,
    size: tuple[int, int],
    out: Path,
    seed: int,
    scale: int = 0,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> EmbeddingSettings:
    """Sample a grid and write it as an embedding file, unless it was made so already; of several processes one does it.

    Args:
        prior: What is sampled from.
        imagining: The condition and how it is sampled.
        size: (width, height) of the picture in px.
        out: The file.
        seed: Of the noise.
        scale: Which of the prior's scales.
        overwrite: Whether `out` may exist.
        progress: Show a progress bar.

    Returns:
        What the file says of itself.

    Raises:
        InputError: For a condition that the prior does not know, and for a size of no tile.
        OutputError: For a file that was made otherwise, or a disk that refuses it.
        LockedError: While another process writes the file.
    """
    check_writable(out, overwrite=True)
    if min(size) < 1:
        raise InputError("`size`: must be 1 px or more")
    cols, rows = (-(-side // prior.info.tile_px) for side in size)
    settings = grid_settings(prior, imagining, rows, cols, seed, scale)
    magnification = mag_of(settings.mpp) if settings.mpp else None
    attributes = trident_attributes(out, settings, magnification, magnification)

    def sample_and_write() -> None:
        with lock(out):
            if os.path.lexists(out) and not overwrite:
                try:
                    keep_existing(out, settings)
                except EmbeddingFileError as error:
                    raise OutputError(f"{error}; use `overwrite` or choose another `out`") from error
                return
            grid = imagine_grid(prior, imagining, settings, seed, scale, progress)
            coords = np.argwhere(grid.tissue)[:, ::-1] * settings.tile_px
            with atomic(out) as temporary:
                write_embeddings(temporary, settings, coords, grid.features[grid.tissue], grid.background, attributes)

    run_on_main(process_group(prior.device), sample_and_write)
    return settings


def grid_settings(
    prior: GridPrior, imagining: Imagining, rows: int, cols: int, seed: int, scale: int = 0
) -> EmbeddingSettings:
    """Say of a grid of rows x cols tiles what an embedding file says."""
    config, info = prior.config, prior.info
    size = config.scales[scale] if config.scales else None
    scene = config.kind == "scene"
    record = {
        **{"prior": info.name, "prior_licence": info.licence, "seed": seed},
        "prior_fingerprint": network_checksum(prior),
        **{"label": imagining.label, "prompt": imagining.prompt},
        **{"guidance": imagining.prior_guidance, "steps": imagining.prior_steps},
    }
    if imagining.prompt is not None:
        record |= {"text_encoder": config.text_encoder, "text_encoder_licence": config.text_licence}
    return EmbeddingSettings(
        source_name=imagining.name,
        source_path="",
        source_kind=config.kind,
        source_width=cols * info.tile_px,
        source_height=rows * info.tile_px,
        source_bytes=0,
        source_background=as_colour(config.background_rgb),
        mpp=None if scene else size,
        gsd_m=size if scene else None,
        crs=None,
        transform=None,
        downsample=1.0,
        tile_px=info.tile_px,
        overlap_px=0,
        region=(0, 0, rows, cols),
        tissue_filter="imagined",
        encoder=info.encoder,
        encoder_fingerprint=info.encoder_fingerprint or "",
        encoder_licence=info.encoder_licence,
        dim=config.embedding_dim,
        precision="float32",
        imagined=json.dumps({key: value for key, value in record.items() if value is not None}),
    )


def imagine_grid(
    prior: GridPrior,
    imagining: Imagining,
    settings: EmbeddingSettings,
    seed: int,
    scale: int = 0,
    progress: bool = False,
) -> EmbeddingGrid:
    """Sample a grid of the size that `settings` says.

    Raises:
        InputError: For a condition that the prior does not know.
    """
    _, _, rows, cols = settings.region
    canvas = sample_cells(prior, rows, cols, imagining, seed, scale, progress)
    return grid_of(prior, settings, *(part[0].cpu().numpy() for part in prior.from_canvas(canvas.to(prior.device))))


def grid_of(prior: GridPrior, settings: EmbeddingSettings, features: np.ndarray, tissue: np.ndarray) -> EmbeddingGrid:
    """Features (rows, cols, D) and tissue (rows, cols) as a grid that says of itself what `settings` does."""
    return EmbeddingGrid(
        features=features,
        tissue=tissue,
        background=prior.background.cpu().numpy(),
        tile_px=settings.tile_px,
        overlap_px=settings.overlap_px,
        downsample=settings.downsample,
        origin_xy=(0, 0),
        encoder=settings.encoder,
        licence=settings.encoder_licence,
        source=settings.source,
    )


def sample_cells(
    prior: GridPrior,
    rows: int,
    cols: int,
    imagining: Imagining,
    seed: int,
    scale: int = 0,
    progress: bool = False,
    known: tuple[Tensor, Tensor] | None = None,
    guess: Tensor | None = None,
) -> Tensor:
    """Sample a canvas of a prior: windows every half window, whose noise is averaged where they overlap [L, sec. 3].

    A canvas smaller than a window is the middle of one.

    Args:
        prior: What is sampled from.
        rows: Of the grid, in tiles.
        cols: Of the grid, in tiles.
        imagining: The condition and how it is sampled.
        seed: Of the noise.
        scale: Which of the prior's scales.
        progress: Show a progress bar.
        known: A canvas (1, K + 1, rows, cols), and where it stays, (rows, cols) bool: the rest is sampled beside it.
        guess: With `known`, a canvas that the rest begins with. The first steps of a sampler are blind to what is
            known, as it is drowned in noise; so this is noised, and sampled from there, `ROUNDS` times, and the rest
            goes on with what is known. None: the condition tells what it is, which these rounds would undo.

    Returns:
        (1, K + 1, rows, cols) float32 on the CPU.

    Raises:
        InputError: For a condition that the prior does not know.
    """
    condition = condition_of(prior, imagining, scale)
    window = int(prior.config.window)
    height, width = max(rows, window), max(cols, window)
    top, left = (height - rows) // 2, (width - cols) // 2
    inside = (..., slice(top, top + rows), slice(left, left + cols))
    keep, sampling, shape = None, imagining.sampling(window, seed), (prior.channels, height, width)

    def laid(values: Tensor) -> Tensor:
        whole = torch.zeros(*values.shape[:-2], height, width, dtype=values.dtype)
        whole[inside] = values
        return whole

    def sample(**start: Any) -> Tensor:
        latents = sample_canvas(
            prior.eps,
            lambda places: condition.expand(len(places), -1, -1),
            SCHEDULE,
            shape,
            sampling,
            window=window,
            null=condition_of(prior, Imagining(), scale),
            device=prior.device,
            correct=keep,
            progress=progress,
            **start,
        )
        return in_memory(latents)

    if known is not None:
        keep = Keep(laid(known[0]), laid(known[1]) * sampling.steps)
    if guess is None:
        return sample()[inside]
    canvas, last = laid(guess), max(1, round(ROUND * sampling.steps))
    scheduler = make_scheduler(sampling.scheduler, SCHEDULE, sampling.steps)
    for number in range(ROUNDS):
        again = noise(seed, GOING_ON - number, 0, 0, height, width, prior.channels)
        start = scheduler.add_noise(canvas, again, scheduler.timesteps[-last, None])
        canvas = sample(latents=start, last_steps=last)
    return canvas[inside]


@torch.inference_mode()
def condition_of(prior: GridPrior, imagining: Imagining, scale: int = 0) -> Tensor:
    """Turn label and prompt into the prior's condition (1, 1, W).

    Raises:
        InputError: For a label or a kind of condition that the prior does not know.
    """
    config, name = prior.config, prior.info.name
    label, vector = NO_LABEL, torch.zeros(1, prior.vector_dim)
    if imagining.label is not None:
        if imagining.label not in config.labels:
            known = ", ".join(config.labels) or "none"
            raise InputError(f"`label` {imagining.label}: prior {name} knows {known}")
        label = list(config.labels).index(imagining.label)
    if imagining.prompt is not None:
        if not config.vector_dim:
            ways = f"labels only: {', '.join(config.labels)}" if config.labels else "no conditions"
            raise InputError(f"`prompt`: prior {name} takes no text; it knows {ways}")
        vector = centred(load_text_encoder(config.text_encoder).texts([imagining.prompt]), prior.prompt_mean.cpu())
    scales, labels = (torch.tensor([number], device=prior.device) for number in (scale, label))
    return prior.condition(scales, labels, vector.to(prior.device))


def scale_at(prior: GridPrior, mag: float | None) -> int:
    """Find which of the prior's scales a magnification is; the finest for None.

    Raises:
        InputError: Where it is none of them.
    """
    if mag is None:
        return 0
    known = [round(mag_of(size), 2) for size in prior.config.scales] if prior.config.kind != "scene" else []
    found = [number for number, one in enumerate(known) if math.isclose(one, mag, rel_tol=0.1)]
    if not found:
        raise InputError(f"`mag` {mag:g}: the prior knows {', '.join(f'{one:g}x' for one in known) or 'none'}")
    return found[0]
