"""A part of an image that is made anew, as a file: what `largegen edit` and `largegen grow` have in common.

All is read and written in bands, so that the memory does not grow with the image.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.area import ImageArea
from largegen.conditioning.suitable import encoder_of
from largegen.embeddings.grid import SourceInfo
from largegen.images.generate_file import DISK_BYTES_PER_PX, fingerprint_of, job_of
from largegen.images.provenance import image_info
from largegen.images.run import Writing, grid_to_come, running
from largegen.images.write import write_image
from largegen.models.encoder import load_encoder
from largegen.models.model import Model
from largegen.runtime.files import write_json
from largegen.runtime.fingerprints import content_digest
from largegen.sampling.blend import BLEND_ROWS, edited_bands, new_share
from largegen.sampling.content import Content
from largegen.sampling.cost import about, canvas_cost, count_calls, count_decoded, trial
from largegen.sampling.edit import tile_embeddings
from largegen.sampling.edit_latents import MARGIN_PX, edit_latents, last_steps, part_latents
from largegen.sampling.original import Original
from largegen.sampling.settings import Sampling
from largegen.sampling.zoom.consistency import Likeness
from largegen.slides.by_products import made_path
from largegen.slides.image_info import ImageInfo
from largegen.slides.mask import outlines
from largegen.slides.slide import Slide
from largegen.version import __version__

MADE, BLENDED = "made by largegen", "blended by largegen"  # classes of outlines

Bands = Iterator[tuple[int, np.ndarray]]


@dataclass(frozen=True)
class Edit:
    """A part of an image that is to be made anew, and how."""

    content: Content  # gives the new embeddings
    about: dict[str, Any]  # what that is, for the record: JSON values that tell it apart from all others
    strength: float = 1.0  # part of the steps that are taken
    margin: int = MARGIN_PX  # px over which old and new are blended

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on, for the record."""
        return self.about | {"strength": self.strength, "margin": self.margin}


@dataclass(frozen=True)
class Part:
    """A part of a result that is made anew, with what a model must see around it."""

    original: Original
    place: tuple[int, int]  # (x, y) of its corner in the result, in px
    size: tuple[int, int]  # (width, height) of the result
    origin_xy: tuple[int, int]  # level-0 px of the slide at the result's corner
    whole: Callable[[Bands], Bands]  # completes the part's bands to those of the result


def make_part(
    model: Model,
    slide: Slide,
    part: Part,
    edit: Edit,
    out: Path,
    sampling: Sampling,
    writing: Writing,
    *,
    encoder_weights: Path | None,
    embed_new: bool,
    done: str,
) -> dict[str, Any]:
    """Embed, sample, blend and write: what is left to do once it is known what is made.

    Args:
        model: whose denoiser samples.
        slide: the image.
        part: of the result.
        edit: what to put there.
        out: of the result; its suffix names the format. `<out>_made.geojson` beside it says what was made.
        sampling: settings, resolved.
        writing: how the file is written.
        encoder_weights: file of the encoder's weights, where no hub has them.
        embed_new: whether tiles that are made anew show something that is to be embedded.
        done: what was done with the image, for its description.

    Returns:
        What was done: see `edit_file`.
    """
    made, original = made_path(out), part.original
    info, fingerprint = _describe(model, slide, part, edit, sampling, writing.command, embed_new, done)
    report: dict[str, Any] = {"out": str(out), "made": str(made), "width": part.size[0], "height": part.size[1]}
    with running(out, info, fingerprint, writing, ["known"], made) as run:
        if run.kept:
            return report | {"kept": True}
        changed = original.changed(model.tile_px)
        encoder = load_encoder(encoder_of(model), encoder_weights, model.device)
        features = edit.content(tile_embeddings(model, original, encoder, None if embed_new else ~changed), changed)
        edited = edit_latents(
            model,
            original,
            features,
            sampling,
            edit.strength,
            edit.margin,
            origin=(part.place[1] // model.factor, part.place[0] // model.factor),
            checkpoint=run.checkpoint,
            progress=writing.progress,
        )
        run.end_stage("sample")
        report["made_px"], report["blended_px"] = _write_outlines(made, part, edit.margin)
        likeness = Likeness()
        bands = edited_bands(model, original, edited, sampling, edit.margin, writing.progress, likeness)
        write_image(out, part.whole(bands), info, jpeg_quality=None)
        run.end_stage("decode")
        report["autoencoder_psnr"] = round(likeness.psnr, 2) if likeness.count else None
        return report | run.seconds


def _write_outlines(path: Path, part: Part, margin: int) -> tuple[int, int]:
    """Write what is made and what is blended as GeoJSON; returns the pixels of both."""
    counts = [0, 0]

    def classes() -> Iterator[np.ndarray]:
        for top, bottom in part.original.bands(BLEND_ROWS):
            mask, share = part.original.mask(top, bottom), new_share(part.original, top, bottom, margin)
            found = np.where(mask, 1, 2 * (share > 0)).astype(np.uint8)
            for kind in (1, 2):
                counts[kind - 1] += int((found == kind).sum())
            yield found

    features = outlines(classes(), part.original.size, part.place, (MADE, BLENDED))
    write_json(path, {"type": "FeatureCollection", "features": features})
    return counts[0], counts[1]


def _describe(
    model: Model,
    slide: Slide,
    part: Part,
    edit: Edit,
    sampling: Sampling,
    command: str,
    embed_new: bool,
    done: str,
) -> tuple[ImageInfo, str]:
    """Say what the result says of itself, and fingerprint all that it depends on beside the settings."""
    original = part.original
    rows, cols = (-(-side // model.tile_px) for side in original.size)
    grid = grid_to_come(model, rows, cols, SourceInfo.of(slide), part.origin_xy)
    area, made_px = ImageArea(*part.size, 0, 0, rows, cols, full=True), 0

    def contents() -> Iterator[bytes]:
        nonlocal made_px
        yield fingerprint_of(model, grid, area).encode()
        for band in original.bands():
            mask = original.mask(*band)
            made_px += int(mask.sum())
            yield np.packbits(mask).tobytes()
            if embed_new or not mask.all():
                yield original.pixels(*band).tobytes()
        yield repr(edit.about).encode()

    fingerprint = content_digest(contents(), ())
    info = image_info(
        model,
        grid,
        area,
        sampling,
        command,
        edit=edit.settings | {"made_px": made_px},
        warning="what made.geojson outlines is invented: no observation",
        job=job_of(fingerprint, sampling, edit.settings, str(slide.path.absolute())),
    )
    return replace(info, description=f"{slide.name}, {done} by largegen {__version__}"), fingerprint


def estimate_part(model: Model, part: Part, edit: Edit, sampling: Sampling, out: Path) -> dict[str, Any]:
    """Estimate what `make_part` would take: time and memory from a batch of windows here, disk from the size.

    sampling: resolved.
    """
    kept = ~part_latents(part.original, model, edit.margin)[1]
    height, width = kept.shape
    steps = last_steps(sampling, edit.strength)
    calls = round(count_calls(sampling, model.window, height, width, kept) * steps / sampling.steps)
    decoded, cost = count_decoded(sampling, model.window, height, width, kept), trial(model, 2 * sampling.batch_size)
    canvas = canvas_cost(model, sampling, height, width)
    if canvas["canvas_file_mb"]:  # beside it, what is known
        canvas["canvas_file_mb"] += round(4 * model.autoencoder.channels * height * width / 1e6, 1)
    return {
        **about(model, out),
        "settings": asdict(sampling) | edit.settings,
        "part": [*part.place, part.original.size[1], part.original.size[0]],
        "made_px": sum(int(part.original.mask(*band).sum()) for band in part.original.bands()),
        "denoiser_calls": calls,
        "seconds": round(calls * cost.call + decoded * (cost.decode + cost.encode), 1),
        **canvas,
        "disk_mb": round(DISK_BYTES_PER_PX * part.size[0] * part.size[1] / 1e6, 1),
    }
