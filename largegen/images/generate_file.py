"""From a grid of embeddings to an image's file: lock, sample, decode, write; a killed run resumes."""

import json
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from largegen.conditioning.area import ImageArea, pure_background
from largegen.conditioning.familiarity import count_unlike
from largegen.embeddings.grid import EmbeddingGrid
from largegen.errors import LargegenError
from largegen.images.finished import lock_outputs
from largegen.images.provenance import image_info
from largegen.images.write import seconds_of_writing, write_image
from largegen.models.model import Model
from largegen.runtime.distributed import min_over_processes, process_group, run_on_main
from largegen.runtime.fingerprints import content_digest
from largegen.sampling.cost import (
    about,
    canvas_cost,
    count_calls,
    count_decoded,
    seconds_of_walk,
    sent_mb_per_step,
    trial,
)
from largegen.sampling.decode import BLOCK
from largegen.sampling.decode_in_turn import Bands, bands_in_turn, pieces_of, serve_bands
from largegen.sampling.generate import decode_bands, resolve_defaults, sample_latents
from largegen.sampling.resume import Checkpoint
from largegen.sampling.rows import Latents
from largegen.sampling.settings import Sampling
from largegen.sampling.stored_canvas import remove_stored, rows_path
from largegen.sampling.walk import Background
from largegen.slides.image_info import ImageInfo

DISK_BYTES_PER_PX = 4  # of an image file at most: a pyramid of a third more than 3 bytes per pixel
GLASS_BYTES_PER_PX = 0.1  # where all is of one colour


def generate_file(
    model: Model,
    grid: EmbeddingGrid,
    area: ImageArea,
    out: Path,
    sampling: Sampling,
    *,
    command: str = "",
    overwrite: bool = False,
    progress: bool = False,
    save_every_s: float = 30.0,
) -> dict[str, Any]:
    """Make an image and write it.

    The canvas is kept in `.<out>.partial` as it is sampled: the same call after a kill resumes from there, to the same
    image. Under several processes each samples its share of the windows, and the main one saves and writes.

    Args:
        model: whose denoiser samples.
        grid: the embeddings of the area's tiles.
        area: of the image on the reference.
        out: of the image; its suffix names the format.
        sampling: settings.
        command: for the provenance.
        overwrite: whether `out` may exist.
        progress: show progress bars.
        save_every_s: seconds between saves of the unfinished canvas.

    Returns:
        What was done: `out`, sizes, calls of the denoiser and seconds; `kept` where the image was there already.

    Raises:
        InputError: for settings that the model cannot be sampled with.
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    processes = process_group(model.device)
    automatic = sampling.batch_size == 0
    sampling = resolve_defaults(sampling, model)
    sampling = replace(sampling, batch_size=min_over_processes(processes, sampling.batch_size))
    height, width = area.height // model.factor, area.width // model.factor
    colour = grid.source.background
    skip = pure_background(grid.tissue, model.window, height, width) if area.full else None
    partial = out.with_name(f".{out.name}.partial")
    partials = partial, rows_path(partial)
    unlike = count_unlike(model, grid)
    fingerprint = fingerprint_of(model, grid, area)
    info = image_info(model, grid, area, sampling, command, unlike, job=job_of(fingerprint, sampling))
    report = {
        "out": str(out),
        "width": area.width,
        "height": area.height,
        "reference_xy": list(grid.origin_xy),
        "unlike_tiles": unlike,
    }
    started = time.perf_counter()
    with ExitStack() as stack:
        if run_on_main(processes, lambda: lock_outputs(stack, out, {out: info}, overwrite, *partials)):
            return report | {"kept": True}
        canvas = sample_latents(
            model,
            torch.from_numpy(grid.features),
            area.height,
            area.width,
            sampling,
            background=None if skip is None else Background(skip, _flat_latent(model, colour)),
            processes=processes,
            checkpoint=Checkpoint(partial, fingerprint, save_every_s, keep_batch_size=automatic),
            progress=progress,
        )
        sampled = time.perf_counter()

        _write(model, canvas, out, info, sampling, skip, colour, processes, progress)
        run_on_main(processes, lambda: remove_stored(partial))
    return report | {
        "denoiser_calls": count_calls(sampling, model.window, height, width, skip),
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }


def _write(
    model: Model,
    canvas: Latents,
    out: Path,
    info: ImageInfo,
    sampling: Sampling,
    skip: np.ndarray | None,
    colour: tuple[int, int, int],
    processes: PartialState,
    progress: bool,
) -> None:
    """Decode a canvas, by all processes, and write it, by the main one, at the same time."""
    world = processes.num_processes
    strides = {"stride": sampling.decode_stride} if sampling.decode_stride else {"stride": BLOCK[0], "most": 1}
    pieces = pieces_of(canvas.shape[2], world=world, **strides)

    def decode(piece: tuple[int, int] | None) -> Bands:
        return decode_bands(model, canvas, sampling, skip, colour, piece, progress and world == 1)

    def write() -> None:
        if world == 1:
            write_image(out, decode(None), info)
            return
        with closing(bands_in_turn(processes, pieces, decode)) as bands:
            write_image(out, bands, info)

    if not processes.is_main_process:
        try:
            serve_bands(processes, pieces, decode)
        except Exception:
            with suppress(LargegenError):  # the main one has heard of it, and says so to all
                run_on_main(processes, write)
            raise
    run_on_main(processes, write)


def estimate_generate(
    model: Model, area: ImageArea, tissue: np.ndarray, sampling: Sampling, out: Path
) -> dict[str, Any]:
    """Estimate what `generate_file` would take: time and memory from a batch of windows here, disk from the size.

    tissue: (rows, cols) bool, of the area's tiles; sampling: as `generate.resolve_defaults` gives it.
    """
    cost = trial(model, 2 * sampling.batch_size)  # as under guidance
    height, width = area.height // model.factor, area.width // model.factor
    skip = pure_background(tissue, model.window, height, width) if area.full else None
    calls = count_calls(sampling, model.window, height, width, skip)
    windows = count_calls(replace(sampling, guidance=1.0), model.window, height, width, skip)
    decoded = count_decoded(sampling, model.window, height, width, skip)
    glass = 0.0 if skip is None else float(skip.mean())
    bytes_per_px = (1 - glass) * DISK_BYTES_PER_PX + glass * GLASS_BYTES_PER_PX
    seconds = calls * cost.call + windows * seconds_of_walk(model, sampling) + decoded * cost.decode
    return {
        **about(model, out),
        "settings": asdict(sampling),
        "region": asdict(area),
        "tiles": area.rows * area.cols,
        "tissue_tiles": int(tissue.sum()),
        "denoiser_calls": calls,
        "seconds": round(seconds + area.width * area.height * seconds_of_writing(out), 1),
        **canvas_cost(model, sampling, height, width),
        "sent_mb_per_step": sent_mb_per_step(model, sampling, height, width, skip),
        "disk_mb": round(bytes_per_px * area.width * area.height / 1e6, 1),
    }


def job_of(fingerprint: str, sampling: Sampling, *more: object) -> str:
    """Tell apart what is made of the same networks and embeddings: by the settings, but those of no weight."""
    return content_digest([json.dumps([fingerprint, asdict(sampling) | {"batch_size": 0}, more]).encode()], ())[:32]


def _flat_latent(model: Model, colour: tuple[int, int, int]) -> Tensor:
    """Return the latent (C,) of an image of one colour."""
    flat = torch.tensor(colour).float()[None, :, None, None] / 127.5 - 1
    return model.autoencoder.encode(flat.expand(1, 3, model.tile_px, model.tile_px)).mean((0, 2, 3))


def fingerprint_of(model: Model, grid: EmbeddingGrid, area: ImageArea) -> str:
    """Fingerprint all that the latents depend on beside the sampling's settings."""
    about = [asdict(area), grid.source.background, dict(model.scheduler.config), str(model.dtype)]
    about += [asdict(model.student_info)] if model.student_info else []
    settings = json.dumps([*about, model.device.type], default=str).encode()
    weights = [*model.unet.parameters(), *model.conditioner.parameters(), *model.autoencoder.vae.parameters()]
    if linear := model.linear_decoder:
        weights += [linear.weight, linear.bias]
    return content_digest([grid.features.tobytes(), grid.tissue.tobytes(), settings], weights)
