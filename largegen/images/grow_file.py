"""An image of `largegen grow` as a file: lay out, encode, sample what is around, write; a killed run resumes."""

import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.reference import encoder_of
from largegen.images.edit_file import Edit, Surroundings, describe_edit, write_outlines
from largegen.images.finished import lock_outputs
from largegen.images.generate_file import DISK_BYTES_PER_PX
from largegen.images.write import check_lossless, write_image
from largegen.models.encoder import load_encoder
from largegen.models.model import Model
from largegen.runtime.outputs import check_writable
from largegen.sampling.cost import about, canvas_cost, count_calls, count_decoded, trial
from largegen.sampling.edit import blended_bands, check_edit, edit_latents, tile_embeddings, touched_tiles
from largegen.sampling.generate import decode_bands, resolve_defaults
from largegen.sampling.grow import laid, place_in
from largegen.sampling.resume import Checkpoint
from largegen.sampling.settings import Sampling
from largegen.sampling.stored_canvas import remove_stored, rows_path
from largegen.sampling.zoom.consistency import Likeness
from largegen.slides.by_products import made_path
from largegen.slides.image_info import read_provenance
from largegen.slides.slide import Slide
from largegen.version import __version__


def grow_file(
    model: Model,
    slide: Slide,
    size: tuple[int, int],
    place: tuple[int, int] | None,
    edit: Edit,
    out: Path,
    sampling: Sampling,
    *,
    encoder_weights: Path | None = None,
    command: str = "",
    overwrite: bool = False,
    progress: bool = False,
    save_every_s: float = 30.0,
) -> dict[str, Any]:
    """Go on with an image beyond its borders and write the whole, without loss. Killed, the same call resumes.

    Args:
        model: whose denoiser samples.
        slide: the image, open; all of it is read.
        size: (width, height) of the result, in px.
        place: where the image's corner lies in it; None: see `place_in`.
        edit: what to put around it; its strength is not heeded.
        out: of the result; its suffix names the format. `<out>_made.geojson` beside it says what was made.
        sampling: settings.
        encoder_weights: file of the encoder's weights, where no hub has them.
        command: for the provenance.
        overwrite: whether the outputs may exist.
        progress: show progress bars.
        save_every_s: seconds between saves of the unfinished canvas.

    Returns:
        What was done: `out`, `made`, sizes, `place`, `autoencoder_psnr` (of the image through the autoencoder, in dB)
        and seconds; `kept` where it was there already.

    Raises:
        InputError: for a size or settings that cannot be.
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    check_lossless(out)
    check_edit(1.0, edit.margin)
    sampling = resolve_defaults(sampling, model)
    x, y = place_in(model, (slide.width, slide.height), size, place)
    around = Surroundings(0, 0, *laid(slide.read(0, 0, slide.width, slide.height), size, (x, y)))
    edit = replace(edit, about=edit.about | {"place": [x, y], "grown_from": [slide.width, slide.height]})
    made, partial = made_path(out), out.with_name(f".{out.name}.partial")
    info, fingerprint = describe_edit(model, slide, size, (-x, -y), around, edit, sampling, command)
    info = replace(info, description=f"{slide.name}, gone on with beyond its borders by largegen {__version__}")
    report = {"out": str(out), "made": str(made), "width": size[0], "height": size[1], "place": [x, y]}
    started = time.perf_counter()
    with ExitStack() as stack:
        ours = out.is_file() and (read_provenance(out) or {}).get("job") == info.provenance["job"]
        check_writable(made, overwrite or ours)
        if lock_outputs(stack, out, {out: info}, overwrite, partial, rows_path(partial)) and made.is_file():
            return report | {"kept": True}
        encoder = load_encoder(encoder_of(model), encoder_weights, model.device)
        touched = touched_tiles(around.mask, model.tile_px)
        features = edit.content(tile_embeddings(model, around.image, encoder, ~touched), touched)
        checkpoint = Checkpoint(partial, fingerprint, save_every_s)
        canvas, _ = edit_latents(
            model, around.image, around.mask, features, sampling, checkpoint=checkpoint, progress=progress
        )
        sampled, likeness = time.perf_counter(), Likeness()
        decoded = decode_bands(model, canvas, sampling, progress=progress)
        write_outlines(made, around, _blended(around.mask, edit.margin))
        bands = blended_bands(decoded, around.image, around.mask, edit.margin, likeness)
        write_image(out, bands, info, jpeg_quality=None)
        remove_stored(partial)
    return report | {
        "autoencoder_psnr": round(likeness.psnr, 2) if likeness.count else None,
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }


def _blended(mask: np.ndarray, margin: int) -> np.ndarray:
    """Say where old and new are blended: inside the old image, within `margin` of a border with what is new."""
    (rows, cols), (height, width) = (np.flatnonzero(~mask.all(axis)) for axis in (1, 0)), mask.shape
    top, bottom = rows[0] + margin * (rows[0] > 0), rows[-1] + 1 - margin * (rows[-1] + 1 < height)
    left, right = cols[0] + margin * (cols[0] > 0), cols[-1] + 1 - margin * (cols[-1] + 1 < width)
    blended = ~mask
    blended[top : max(top, bottom), left : max(left, right)] = False
    return blended


def estimate_grow(
    model: Model, slide: Slide, size: tuple[int, int], place: tuple[int, int] | None, sampling: Sampling, out: Path
) -> dict[str, Any]:
    """Estimate what `grow_file` would take: time and memory from a batch of windows here, disk from the size."""
    sampling = resolve_defaults(sampling, model)
    place = place_in(model, (slide.width, slide.height), size, place)
    height, width = size[1] // model.factor, size[0] // model.factor
    calls = count_calls(sampling, model.window, height, width)
    decoded, cost = count_decoded(sampling, model.window, height, width), trial(model, 2 * sampling.batch_size)
    return {
        **about(model, out),
        "settings": asdict(sampling),
        "place": list(place),
        "denoiser_calls": calls,
        "seconds": round(calls * cost.call + decoded * (cost.decode + cost.encode), 1),
        **canvas_cost(model, sampling, height, width),
        "disk_mb": round(DISK_BYTES_PER_PX * size[0] * size[1] / 1e6, 1),
    }
