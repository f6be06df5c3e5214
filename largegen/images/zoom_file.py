"""An image of `largegen zoom` and what lies beside it, as files: sample, decode, write."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from largegen.conditioning.area import ImageArea
from largegen.conditioning.familiarity import count_unlike
from largegen.embeddings.grid import EmbeddingGrid
from largegen.images.finished import lock_outputs
from largegen.images.generate_file import DISK_BYTES_PER_PX, fingerprint_of, job_of
from largegen.images.provenance import image_info
from largegen.images.write import write_image
from largegen.models.model import Model, level_names
from largegen.models.pixels import to_images
from largegen.sampling.cost import about, canvas_cost, count_decoded, trial
from largegen.sampling.generate import decode_bands
from largegen.sampling.resume import Checkpoint, part_path
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.stored_canvas import rows_path
from largegen.sampling.zoom.downsample import BandDownsampler, guide_downsampler, guide_psnr, tee_bands
from largegen.sampling.zoom.guide import guide_image
from largegen.sampling.zoom.zoom import count_work, level_of, resolve_zoom, zoom_latents
from largegen.slides.by_products import side_file


def zoom_file(
    model: Model,
    grid: EmbeddingGrid,
    area: ImageArea,
    out: Path,
    sampling: Sampling,
    zooming: Zooming,
    *,
    command: str = "",
    levels: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    save_every_s: float = 30.0,
) -> dict[str, Any]:
    """Make an image and its guide and write them, the guide as `<out>_guide.png`. Killed, the same call resumes.

    Args:
        model: with several levels.
        grid: the embeddings of the area's tiles.
        area: of the image on the reference.
        out: of the image; its suffix names the format.
        sampling: settings.
        zooming: the method and its settings.
        command: for the provenance.
        levels: also write the image at every magnification between, `<out>_10x.png` and so on; held in memory,
            a third of the image's pixels at most.
        overwrite: whether the outputs may exist.
        progress: show progress bars.
        save_every_s: seconds between saves of the unfinished canvas.

    Returns:
        What was done: files, sizes, seconds, and `guide_psnr` in dB; `kept` where they were there already.

    Raises:
        InputError: for settings that the model cannot be sampled with.
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    sampling = zooming.canvas_sampling(resolve_zoom(sampling, zooming, model), model.window)
    level = level_of(model, (area.width, area.height))
    unlike = count_unlike(model, grid)
    fingerprint = fingerprint_of(model, grid, area)
    job = job_of(fingerprint, sampling, zooming.as_dict())
    info = image_info(model, grid, area, sampling, command, unlike, zoom=zooming.as_dict(), job=job)
    names = level_names(info.mpp, level + 1)
    level_files = {k: side_file(out, names[k]) for k in range(1, level)} if levels else {}
    guide_out = side_file(out, "guide")
    partial = out.with_name(f".{out.name}.partial")
    started = time.perf_counter()
    with ExitStack() as stack:
        notes = (partial, part_path(partial, "draft"), part_path(partial, "seams"))
        partials = (*notes, *map(rows_path, notes))
        beside = {k: info.at(2**k, {"level": k, "guide": k == level}) for k in (level, *level_files)}
        outputs = {out: info, guide_out: beside[level], **{path: beside[k] for k, path in level_files.items()}}
        report = {
            "out": str(out),
            "guide": str(guide_out),
            "levels": {names[k]: str(path) for k, path in level_files.items()},
            "width": area.width,
            "height": area.height,
            "reference_xy": list(grid.origin_xy),
            "unlike_tiles": unlike,
            "guide_magnification": names[level],
        }
        if lock_outputs(stack, out, outputs, overwrite, *partials):
            return report | {"kept": True}
        guide, canvas = zoom_latents(
            model,
            torch.from_numpy(grid.features),
            sampling,
            zooming,
            checkpoint=Checkpoint(partial, fingerprint, save_every_s),
            progress=progress,
        )
        sampled = time.perf_counter()
        image = to_images(guide_image(model, guide))[0]
        seen, between = guide_downsampler(2**level), {k: BandDownsampler(2**k) for k in level_files}

        def bands() -> Iterator[tuple[int, np.ndarray]]:
            yield from tee_bands(decode_bands(model, canvas, sampling, progress=progress), seen, *between.values())
            # What lies beside the image is there before the image is, whose being there says that all is done.
            images = {level: (guide_out, image)} | {k: (level_files[k], between[k].image) for k in level_files}
            for k, (path, pixels) in images.items():
                write_image(path, [(0, pixels)], beside[k])

        write_image(out, bands(), info)
        for path in partials:
            path.unlink(missing_ok=True)
    return report | {
        "guide_psnr": round(guide_psnr(image, seen.image), 2),
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }


def estimate_zoom(model: Model, area: ImageArea, sampling: Sampling, zooming: Zooming, out: Path) -> dict[str, Any]:
    """Estimate what `zoom_file` would take: time and memory from a batch of windows here, disk from the size.

    sampling: as `generate.resolve_defaults` gives it.
    """
    work, side = count_work(model, area.rows, sampling, zooming), area.width // model.factor
    decoded = work["decodes"] + count_decoded(sampling, model.window, side, side)
    cost = trial(model, 2 * sampling.batch_size)  # as under guidance
    seconds = work["denoiser_calls"] * cost.call + decoded * cost.decode + work["encodes"] * cost.encode
    return {
        **about(model, out),
        "settings": asdict(sampling) | zooming.as_dict(),
        "region": asdict(area),
        **work,
        "decodes": decoded,
        "seconds": round(seconds, 1),
        **canvas_cost(model, zooming.canvas_sampling(sampling, model.window), side, side),
        "disk_mb": round(DISK_BYTES_PER_PX * area.width * area.height / 1e6, 1),
    }
