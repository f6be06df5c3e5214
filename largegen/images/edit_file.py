"""An image of `largegen edit` as a file: read, encode, sample the part under the mask, write; a killed run resumes.

Only the surroundings of the mask are held in memory; the rest is copied in bands.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.area import ImageArea
from largegen.conditioning.reference import encoder_of
from largegen.embeddings.grid import EmbeddingGrid, SourceInfo
from largegen.images.finished import lock_outputs
from largegen.images.generate_file import DISK_BYTES_PER_PX, fingerprint_of, job_of
from largegen.images.provenance import image_info
from largegen.images.write import check_lossless, write_image
from largegen.models.encoder import load_encoder
from largegen.models.model import Model
from largegen.runtime.files import atomic, write_json
from largegen.runtime.fingerprints import content_digest
from largegen.runtime.outputs import check_writable
from largegen.sampling.content import Content
from largegen.sampling.cost import about, canvas_cost, count_calls, count_decoded, trial
from largegen.sampling.edit import (
    MARGIN_PX,
    blended_bands,
    check_edit,
    edit_latents,
    edit_sampling,
    new_share,
    tile_embeddings,
    touched_tiles,
)
from largegen.sampling.generate import decode_bands
from largegen.sampling.resume import Checkpoint
from largegen.sampling.settings import Sampling
from largegen.sampling.stored_canvas import remove_stored, rows_path
from largegen.sampling.zoom.consistency import Likeness
from largegen.slides.by_products import made_path
from largegen.slides.image_info import ImageInfo, read_provenance
from largegen.slides.mask import Mask, outlines
from largegen.slides.slide import Slide
from largegen.version import __version__

COPY_ROWS = 256  # of the image that are copied at once
MADE, BLENDED = "made by largegen", "blended by largegen"  # classes of outlines


@dataclass(frozen=True)
class Edit:
    """A part of an image that is to be made anew, and how."""

    content: Content  # gives the new embeddings
    about: dict[str, Any]  # what that is, for the record: JSON values that tell it apart from all others
    strength: float = 1.0  # part of the steps that are taken
    margin: int = MARGIN_PX  # px over which old and new are blended


@dataclass(frozen=True)
class Surroundings:
    """A mask and what is around it, in px of the image."""

    x: int
    y: int
    image: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) bool


def read_surroundings(slide: Slide, mask: Mask, model: Model, margin: int) -> Surroundings:
    """Read what a model must see to make the part under a mask anew: a window more on each side."""
    left, top, right, bottom = mask.bounds
    around, f = max(margin, model.tile_px), model.factor
    x, y = (max(0, (v - around) // f * f) for v in (left, top))
    width, height = min(slide.width, right + around) - x, min(slide.height, bottom + around) - y
    return Surroundings(x, y, slide.read(x, y, width, height), mask.read(x, y, width, height))


def edit_file(
    model: Model,
    slide: Slide,
    mask: Mask,
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
    """Make a part of an image anew and write the whole, without loss. Killed, the same call resumes.

    Args:
        model: whose denoiser samples.
        slide: the image, open.
        mask: of the part.
        edit: what to put there.
        out: of the result; its suffix names the format. `<out>_made.geojson` beside it says what was made.
        sampling: settings.
        encoder_weights: file of the encoder's weights, where no hub has them.
        command: for the provenance.
        overwrite: whether the outputs may exist.
        progress: show progress bars.
        save_every_s: seconds between saves of the unfinished canvas.

    Returns:
        What was done: `out`, `made`, sizes, `made_px`, `blended_px`, `autoencoder_psnr` (of the image around the mask
        through the autoencoder, in dB; none where nothing is around) and seconds; `kept` where it was there already.

    Raises:
        InputError: for settings that cannot be.
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    check_lossless(out)
    check_edit(edit.strength, edit.margin)
    sampling = edit_sampling(sampling, model)
    around, made = read_surroundings(slide, mask, model, edit.margin), made_path(out)
    size = slide.width, slide.height
    info, fingerprint = describe_edit(model, slide, size, (0, 0), around, edit, sampling, command)
    partial = out.with_name(f".{out.name}.partial")
    report: dict[str, Any] = {"out": str(out), "made": str(made), "width": slide.width, "height": slide.height}
    started = time.perf_counter()
    with ExitStack() as stack:
        ours = out.is_file() and (read_provenance(out) or {}).get("job") == info.provenance["job"]
        check_writable(made, overwrite or ours)
        if lock_outputs(stack, out, {out: info}, overwrite, partial, rows_path(partial)) and made.is_file():
            return report | {"kept": True}
        encoder = load_encoder(encoder_of(model), encoder_weights, model.device)
        features = tile_embeddings(model, around.image, encoder)
        features = edit.content(features, touched_tiles(around.mask, model.tile_px))
        canvas, _ = edit_latents(
            model,
            around.image,
            around.mask,
            features,
            sampling,
            edit.strength,
            origin=(around.y // model.factor, around.x // model.factor),
            checkpoint=Checkpoint(partial, fingerprint, save_every_s),
            progress=progress,
        )
        sampled, likeness = time.perf_counter(), Likeness()
        decoded = decode_bands(model, canvas, sampling, progress=progress)
        part = np.concatenate([b for _, b in blended_bands(decoded, around.image, around.mask, edit.margin, likeness)])
        share = new_share(around.mask, 0, len(around.mask), edit.margin)
        write_outlines(made, around, (share > 0) & ~around.mask)
        write_image(out, _bands(slide, around, part), info, jpeg_quality=None)
        remove_stored(partial)
    return report | {
        "made_px": int(around.mask.sum()),
        "blended_px": int(((share > 0) & ~around.mask).sum()),
        "autoencoder_psnr": round(likeness.psnr, 2) if likeness.count else None,
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }


def _bands(slide: Slide, around: Surroundings, part: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Copy the image in bands, with the new part in its place."""
    for top in range(0, slide.height, COPY_ROWS):
        band = slide.read(0, top, slide.width, min(COPY_ROWS, slide.height - top))
        first, last = max(top, around.y), min(top + len(band), around.y + len(part))
        if first < last:
            band[first - top : last - top, around.x : around.x + part.shape[1]] = part[
                first - around.y : last - around.y
            ]
        yield top, band


def write_outlines(path: Path, around: Surroundings, blended: np.ndarray) -> None:
    """Write what was made and what was blended, (H, W) bool, as GeoJSON."""
    features = outlines(around.mask, around.x, around.y, MADE) + outlines(blended, around.x, around.y, BLENDED)
    with atomic(path) as temporary:
        write_json(temporary, {"type": "FeatureCollection", "features": features})


def describe_edit(
    model: Model,
    slide: Slide,
    size: tuple[int, int],
    origin_xy: tuple[int, int],
    around: Surroundings,
    edit: Edit,
    sampling: Sampling,
    command: str,
) -> tuple[ImageInfo, str]:
    """Say what the result says of itself, and fingerprint all that it depends on beside the settings.

    size, origin_xy: (width, height) of the result, and its corner on the slide, in px.
    """
    rows, cols = (-(-side // model.tile_px) for side in around.mask.shape)
    grid = EmbeddingGrid(
        features=np.zeros((rows, cols, 0), np.float32),  # not known yet
        tissue=np.ones((rows, cols), bool),
        background=np.zeros(model.info.embedding_dim, np.float32),
        tile_px=model.tile_px,
        overlap_px=0,
        downsample=1.0,
        origin_xy=origin_xy,
        encoder=model.info.encoder,
        licence=model.info.encoder_licence,
        source=SourceInfo.of(slide),
    )
    area = ImageArea(*size, 0, 0, rows, cols, full=True)
    pixels = [around.image.tobytes(), np.packbits(around.mask).tobytes()]
    fingerprint = content_digest([fingerprint_of(model, grid, area).encode(), *pixels, repr(edit.about).encode()], ())
    settings = {**edit.about, "strength": edit.strength, "margin": edit.margin}
    info = image_info(
        model,
        grid,
        area,
        sampling,
        command,
        edit=settings | {"made_px": int(around.mask.sum())},
        warning="what made.geojson outlines is invented: no observation",
        job=job_of(fingerprint, sampling, settings, str(slide.path.absolute())),
    )
    description = f"{slide.name}, a part of which largegen {__version__} has made anew"
    return replace(info, description=description), fingerprint


def estimate_edit(model: Model, slide: Slide, mask: Mask, edit: Edit, sampling: Sampling, out: Path) -> dict[str, Any]:
    """Estimate what `edit_file` would take: time and memory from a batch of windows here, disk from the size."""
    sampling, around = edit_sampling(sampling, model), read_surroundings(slide, mask, model, edit.margin)
    height, width = (max(model.window, -(-side // model.factor)) for side in around.mask.shape)
    steps = max(1, round(edit.strength * sampling.steps))
    calls = count_calls(replace(sampling, steps=steps), model.window, height, width)
    decoded, cost = count_decoded(sampling, model.window, height, width), trial(model, 2 * sampling.batch_size)
    return {
        **about(model, out),
        "settings": asdict(sampling) | edit.about | {"strength": edit.strength, "margin": edit.margin},
        "part": [around.x, around.y, around.mask.shape[1], around.mask.shape[0]],
        "made_px": int(around.mask.sum()),
        "denoiser_calls": calls,
        "seconds": round(calls * cost.call + decoded * (cost.decode + cost.encode), 1),
        **canvas_cost(model, sampling, height, width),
        "disk_mb": round(DISK_BYTES_PER_PX * slide.width * slide.height / 1e6, 1),
    }
