"""An image of `largegen edit` as a file: the part under the mask made anew, the rest copied; a killed run resumes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from largegen.images.part import Bands, Edit, Part, estimate_part, make_part
from largegen.images.run import Writing
from largegen.images.write import check_lossless
from largegen.models.model import Model
from largegen.sampling.edit import box_around, check_edit, edit_sampling
from largegen.sampling.original import BAND_PX, Original
from largegen.sampling.settings import Sampling
from largegen.slides.mask import Mask
from largegen.slides.slide import Slide


def edit_file(
    model: Model,
    slide: Slide,
    mask: Mask,
    edit: Edit,
    out: Path,
    sampling: Sampling,
    writing: Writing = Writing(),
    *,
    encoder_weights: Path | None = None,
) -> dict[str, Any]:
    """Make a part of an image anew and write the whole, without loss. Killed, the same call resumes.

    Args:
        model: whose denoiser samples.
        slide: the image, open.
        mask: of the part.
        edit: what to put there.
        out: of the result; its suffix names the format. `<out>_made.geojson` beside it says what was made.
        sampling: settings.
        writing: how the file is written.
        encoder_weights: file of the encoder's weights, where no hub has them.

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
    return make_part(
        model,
        slide,
        _part_of(slide, mask, model, edit.margin),
        edit,
        out,
        edit_sampling(sampling, model, edit.strength),
        writing,
        encoder_weights=encoder_weights,
        embed_new=True,
        done="a part of which was made anew",
    )


def _part_of(slide: Slide, mask: Mask, model: Model, margin: int) -> Part:
    """Find what a model must see to make what is under a mask anew."""
    x, y, width, height = box_around(mask.bounds, (slide.width, slide.height), model, margin)
    original = Original(
        (height, width),
        lambda first, last: slide.read(x, y + first, width, last - first),
        lambda first, last: mask.read(x, y + first, width, last - first),
    )

    def copied(first: int, last: int) -> Bands:
        for row in range(first, last, BAND_PX):
            yield row, slide.read(0, row, slide.width, min(BAND_PX, last - row))

    def whole(bands: Bands) -> Iterator[tuple[int, np.ndarray]]:
        yield from copied(0, y)
        for row, new in bands:
            band = slide.read(0, y + row, slide.width, len(new))
            band[:, x : x + width] = new
            yield y + row, band
        yield from copied(y + height, slide.height)

    return Part(original, (x, y), (slide.width, slide.height), (0, 0), whole)


def estimate_edit(model: Model, slide: Slide, mask: Mask, edit: Edit, sampling: Sampling, out: Path) -> dict[str, Any]:
    """Estimate what `edit_file` would take: see `estimate_part`."""
    part, sampling = _part_of(slide, mask, model, edit.margin), edit_sampling(sampling, model, edit.strength)
    return estimate_part(model, part, edit, sampling, out)
