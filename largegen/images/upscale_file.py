"""An image of `largegen upscale` as a file: find its embeddings, sample, decode, write; a killed run resumes."""

from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from largegen.conditioning.area import ImageArea
from largegen.conditioning.low_image import LowImage
from largegen.images.generate_file import DISK_BYTES_PER_PX, fingerprint_of, job_of
from largegen.images.provenance import image_info
from largegen.images.run import Writing, grid_to_come, running
from largegen.images.write import write_image
from largegen.models.model import Model
from largegen.runtime.fingerprints import content_digest
from largegen.sampling.cost import about, canvas_cost, count_decoded, trial
from largegen.sampling.original import BAND_PX
from largegen.sampling.settings import Inversion, Sampling, Zooming
from largegen.sampling.zoom.consistency import Likeness
from largegen.sampling.zoom.enlargement import Enlargement, encoder_for, find_embeddings, first_embeddings
from largegen.sampling.zoom.upscale import count_upscaling, upscale_latents, upscaled_bands, walks_in_bands
from largegen.sampling.zoom.zoom import resolve_zoom
from largegen.slides.image_info import ImageInfo
from largegen.version import __version__

BACKWARD = 2  # cost of the way back through the denoiser, in calls


def upscale_file(
    model: Model,
    low: LowImage,
    out: Path,
    sampling: Sampling,
    zooming: Zooming,
    inversion: Inversion,
    writing: Writing = Writing(),
    *,
    encoder_weights: Path | None = None,
) -> dict[str, Any]:
    """Enlarge an image and write the result. Killed, the same call resumes.

    Args:
        model: of several magnifications.
        low: the image.
        out: of the result; its suffix names the format.
        sampling: settings.
        zooming: the method and its settings.
        inversion: how the embeddings under the image are found.
        writing: how the file is written.
        encoder_weights: file of the encoder's weights, where no hub has them.

    Returns:
        What was done: `out`, sizes, `factor`, mean steps of the inversion, `consistency_psnr` (of the result, shrunk,
        against the image, in dB) and seconds; `kept` where the result was there already.

    Raises:
        InputError: for settings that the model cannot be sampled with.
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    work = Enlargement(model, low.pixels, low.factor)
    sampling = zooming.canvas_sampling(resolve_zoom(sampling, zooming, model), model.window)
    info, fingerprint = _describe(work, low, sampling, zooming, inversion, writing.command)
    report: dict[str, Any] = {"out": str(out), "width": info.width, "height": info.height, "factor": work.factor}
    with running(out, info, fingerprint, writing, ["conditions", "seams"]) as run:
        if run.kept:
            return report | {"kept": True}
        encoder, progress = encoder_for(model, inversion, weights=encoder_weights), writing.progress
        start = first_embeddings(work, encoder, sampling.seed, progress)
        found, steps = find_embeddings(
            work, start, inversion, sampling, checkpoint=run.checkpoint.part("conditions"), progress=progress
        )
        run.end_stage("invert")
        canvas = upscale_latents(work, found, sampling, zooming, checkpoint=run.checkpoint, progress=progress)
        run.end_stage("sample")
        likeness = Likeness()
        write_image(out, upscaled_bands(work, canvas, sampling, progress, likeness), info)
        run.end_stage("decode")
        return report | {"invert_steps": round(steps, 1), "consistency_psnr": round(likeness.psnr, 2)} | run.seconds


def _describe(
    work: Enlargement, low: LowImage, sampling: Sampling, zooming: Zooming, inversion: Inversion, command: str
) -> tuple[ImageInfo, str]:
    """Say what the result says of itself, and fingerprint all that it depends on beside the settings."""
    model, (height, width), (rows, cols) = work.model, work.size, work.tiles
    grid = grid_to_come(model, rows, cols, low.source, low.origin_xy, low.downsample / work.factor)
    area = ImageArea(width, height, 0, 0, rows, cols, full=False)
    pixels = (low.pixels[top : top + BAND_PX].tobytes() for top in range(0, len(low.pixels), BAND_PX))
    fingerprint = content_digest(chain([fingerprint_of(model, grid, area).encode()], pixels), ())
    upscale = {"factor": work.factor, "of": model.level_names[work.level], **asdict(inversion)}
    info = image_info(
        model,
        grid,
        area,
        sampling,
        command,
        zoom=zooming.as_dict(),
        upscale=upscale,
        warning="what is finer than the reference is invented: no observation",
        job=job_of(fingerprint, sampling, zooming.as_dict(), upscale),
    )
    description = f"{low.source.name} enlarged {work.factor} times by largegen {__version__}; its detail is invented"
    return replace(info, description=description), fingerprint


def estimate_upscale(
    model: Model, low: LowImage, sampling: Sampling, zooming: Zooming, inversion: Inversion, out: Path
) -> dict[str, Any]:
    """Estimate what `upscale_file` would take at most: time and memory from a batch of windows here.

    sampling: as `generate.resolve_defaults` gives it.
    """
    work = Enlargement(model, low.pixels, low.factor)
    counted, (height, width) = count_upscaling(work, sampling, zooming, inversion), work.canvas_size
    height, width = height // model.factor, width // model.factor
    decoded = counted["decodes"] + count_decoded(sampling, model.window, height, width)
    cost = trial(model, 2 * sampling.batch_size)  # as under guidance
    calls = counted["denoiser_calls"] + (1 + BACKWARD) * counted["inversion_steps"]
    seconds = calls * cost.call + decoded * cost.decode + counted["encodes"] * cost.encode
    return {
        **about(model, out),
        "settings": asdict(sampling) | zooming.as_dict() | asdict(inversion),
        "factor": work.factor,
        "width": work.size[1],
        "height": work.size[0],
        "tiles": work.tiles[0] * work.tiles[1],
        **counted,
        "decodes": decoded,
        "seconds": round(seconds, 1),
        **canvas_cost(
            model, zooming.canvas_sampling(sampling, model.window), height, width, not walks_in_bands(work, zooming)
        ),
        "disk_mb": round(DISK_BYTES_PER_PX * work.size[0] * work.size[1] / 1e6, 1),
    }
