"""An image of `largegen grow` as a file: laid into a larger one, what is around it made; a killed run resumes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from largegen.images.part import Edit, Part, estimate_part, make_part
from largegen.images.run import Writing
from largegen.images.write import check_lossless
from largegen.models.model import Model
from largegen.sampling.edit import check_edit
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.grow import laid, place_in
from largegen.sampling.settings import Sampling
from largegen.slides.slide import Slide


def grow_file(
    model: Model,
    slide: Slide,
    size: tuple[int, int],
    place: tuple[int, int] | None,
    edit: Edit,
    out: Path,
    sampling: Sampling,
    writing: Writing = Writing(),
    *,
    encoder_weights: Path | None = None,
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
        writing: how the file is written.
        encoder_weights: file of the encoder's weights, where no hub has them.

    Returns:
        What was done: `place`, and what `edit_file` returns.

    Raises:
        InputError: for a size or settings that cannot be.
        LockedError: while another process makes the same image.
        OutputError: for an image that exists already, or a disk that refuses it.
    """
    check_lossless(out)
    check_edit(1.0, edit.margin)
    part, edit = _part_of(model, slide, size, place, edit)
    report = make_part(
        model,
        slide,
        part,
        edit,
        out,
        resolve_defaults(sampling, model),
        writing,
        encoder_weights=encoder_weights,
        embed_new=False,
        done="gone on with beyond its borders",
    )
    return report | {"place": edit.about["place"]}


def _part_of(
    model: Model, slide: Slide, size: tuple[int, int], place: tuple[int, int] | None, edit: Edit
) -> tuple[Part, Edit]:
    old = slide.width, slide.height
    x, y = place_in(model, old, size, place)
    original = laid(lambda top, bottom: slide.read(0, top, slide.width, bottom - top), old, size, (x, y))
    about = edit.about | {"place": [x, y], "grown_from": list(old)}
    return Part(original, (0, 0), size, (-x, -y), lambda bands: bands), replace(edit, about=about, strength=1.0)


def estimate_grow(
    model: Model,
    slide: Slide,
    size: tuple[int, int],
    place: tuple[int, int] | None,
    edit: Edit,
    sampling: Sampling,
    out: Path,
) -> dict[str, Any]:
    """Estimate what `grow_file` would take: see `estimate_part`."""
    part, edit = _part_of(model, slide, size, place, edit)
    return estimate_part(model, part, edit, resolve_defaults(sampling, model), out) | {"place": edit.about["place"]}
