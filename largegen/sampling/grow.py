"""An image gone on with beyond its borders: what is around it is made, as a part of a larger image is by edit.py."""

from typing import Any

import numpy as np

from largegen.conditioning.area import check_size
from largegen.errors import InputError
from largegen.models.encoder import Encoder
from largegen.models.model import Model
from largegen.models.pixels import check_image
from largegen.sampling.blend import edited_bands
from largegen.sampling.content import Content, surroundings
from largegen.sampling.edit import check_edit, tile_embeddings
from largegen.sampling.edit_latents import MARGIN_PX, edit_latents
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.original import Original
from largegen.sampling.settings import Sampling
from largegen.slides.lazy_image import ReadRows, read_mirrored


def grow(
    model: Model,
    image: np.ndarray,
    size: int | tuple[int, int],
    content: Content | None = None,
    *,
    place: tuple[int, int] | None = None,
    margin: int = MARGIN_PX,
    encoder: Encoder | None = None,
    progress: bool = False,
    **settings: Any,
) -> np.ndarray:
    """Go on with an image beyond its borders; in memory. For files, `grow_file`.

    What is made is invented by the model: it is no observation.

    Args:
        model: from `load_model`.
        image: (H, W, 3) uint8, at the model's finest magnification.
        size: side or (width, height) of the new image, in px.
        content: gives the embeddings around: see `content.imagined`. None: those of the nearest tiles, averaged.
        place: where the image's corner (x, y) lies in the new one, in px; None: so that it is in the middle.
        margin: px inside the image's borders over which old and new are blended. Farther in no pixel changes.
        encoder: the model's, where it cannot be loaded by its name.
        progress: show progress bars on a terminal.
        settings: fields of `Sampling`: `steps`, `guidance`, `windows`, `seed`, `batch_size` and others.

    Returns:
        (height, width, 3) uint8.

    Raises:
        InputError: for an image, a size or settings that cannot be.
    """
    image = np.asarray(image)
    check_image(image)
    sampling = resolve_defaults(Sampling(**settings), model)
    check_edit(1.0, margin)
    new_size = (size, size) if isinstance(size, int) else size
    old = image.shape[1], image.shape[0]
    x, y = place_in(model, old, new_size, place)
    original = laid(lambda top, bottom: image[top:bottom], old, new_size, (x, y))
    changed = original.changed(model.tile_px)
    features = (content or surroundings)(tile_embeddings(model, original, encoder, ~changed), changed)
    edited = edit_latents(model, original, features, sampling, margin=margin, progress=progress)
    return np.concatenate([band for _, band in edited_bands(model, original, edited, sampling, margin, progress)])


def place_in(
    model: Model, old: tuple[int, int], new: tuple[int, int], place: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Find where an image's corner (x, y) lies in a larger one: where it is asked for, else near the middle.

    In the middle it is moved to where the image's tiles lie on the larger one's.

    Args:
        model: whose tiles they are.
        old: (width, height) of the image, in px.
        new: of the larger one.
        place: asked for; None: the middle.

    Raises:
        InputError: for a size that the model cannot make, or in which the image does not fit or fills all.
    """
    check_size(new, model)
    side = model.tile_px
    x, y = place or tuple((b - a) // 2 // side * side for a, b in zip(old, new, strict=True))
    if old == new:
        raise InputError(f"`size` {new[0]}x{new[1]}: is the image's own; give a larger one")
    if min(x, y) < 0 or x + old[0] > new[0] or y + old[1] > new[1]:
        raise InputError(f"`size` {new[0]}x{new[1]}: an image of {old[0]}x{old[1]} px at {x},{y} does not fit into it")
    return x, y


def laid(read: ReadRows, old: tuple[int, int], size: tuple[int, int], place: tuple[int, int]) -> Original:
    """Lay an image into a larger one, around which it is mirrored; what is not its own may change.

    Args:
        read: gives rows of the image.
        old: (width, height) of the image, in px.
        size: of the larger one.
        place: (x, y) of the image's corner in it.
    """
    (cols, rows), (width, height), (x, y) = old, size, place

    def pixels(top: int, bottom: int) -> np.ndarray:
        return read_mirrored(read, (rows, cols), (top - y, bottom - y), (-x, width - x))

    def mask(top: int, bottom: int) -> np.ndarray:
        found = np.ones((bottom - top, width), bool)
        found[max(0, y - top) : max(0, y + rows - top), x : x + cols] = False
        return found

    return Original((height, width), pixels, mask)
