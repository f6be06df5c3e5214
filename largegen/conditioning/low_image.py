"""An image at a low magnification: at which one, and by how much a model can enlarge it."""

import logging
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from largegen.embeddings.grid import SourceInfo
from largegen.errors import InputError, ModelError
from largegen.models.model import Model
from largegen.slides.lazy_image import LazyImage
from largegen.slides.resolution import PIXELS, SCALE_TOLERANCE, Resolution, Scale, mag_of
from largegen.slides.slide import Slide, open_slide

log = logging.getLogger(__name__)

MAX_FACTOR = 8  # the Summarizer pools larger grids to 8 x 8, so that tiles could not be told apart [Z]
NEAR = 0.1  # part by which a resolution may differ from the one that the model knows


@dataclass(frozen=True)
class LowImage:
    """An image at a low magnification, whose slide is open: a context manager that closes it."""

    pixels: LazyImage
    factor: int  # by which a model enlarges it
    downsample: float  # level-0 px of its source per px
    origin_xy: tuple[int, int]  # level-0 corner
    source: SourceInfo
    slide: Slide

    def __enter__(self) -> "LowImage":
        return self

    def __exit__(self, *_: object) -> None:
        self.slide.close()


def factors_of(model: Model) -> list[int]:
    """List by how much a model can enlarge.

    Raises:
        ModelError: For a model of one magnification.
    """
    if model.levels == 1:
        raise ModelError(f"model {model.info.name}: knows one magnification only; upscale needs one trained at several")
    return [2**level for level in range(1, model.levels) if 2**level <= MAX_FACTOR]


def read_low_image(
    model: Model,
    path: Path,
    source: Resolution,
    target: Resolution,
    *,
    to: float | None = None,
    factor: int | None = None,
    region: tuple[int, int, int, int] | None = None,
) -> LowImage:
    """Open an image, or a part of it, at a magnification from which a model can enlarge it.

    Args:
        model: That enlarges it.
        path: Of the slide, scene or image.
        source: Resolution of its level 0, where its metadata lack it.
        target: Resolution to read it at; that of an image which says none.
        to: Magnification to make, which must be the model's finest; None: that.
        factor: By how much it is enlarged, where the resolutions do not tell.
        region: (x, y, width, height) of the part, in level-0 px; None: the whole.

    Raises:
        InputError: For resolutions that the model does not know, or that do not go together, and a part that leaves
            the image.
        ModelError: For a model of one magnification.
    """
    slide = open_slide(path, *source)
    if slide.scale == PIXELS and (said := target.scale()):
        log.info("%s: says no resolution; it is taken to be at %s", path, said)
        slide.close()
        slide = open_slide(path, *target)
    with ExitStack() as stack:
        stack.callback(slide.close)
        times = _times_coarser(model, slide, target, to)
        if times is None and factor is None:
            raise InputError(f"{path}: not known how coarse it is against model {model.info.name}: give `factor`")
        if times is not None and factor is not None and times != factor:
            raise InputError(f"`factor` {factor}: {path} is {times} times as coarse as what {model.info.name} makes")
        downsample = target.downsample(slide) if target.scale() else 1.0
        if abs(downsample - 1) <= SCALE_TOLERANCE:
            downsample = 1.0
        x, y, width, height = region or (0, 0, slide.width, slide.height)
        if x + width > slide.width or y + height > slide.height or min(width, height) < downsample:
            raise InputError(f"`region` {x},{y},{width},{height}: {path} has {slide.width}x{slide.height} px")
        rows, cols = int(height / downsample), int(width / downsample)

        def read(top: int, bottom: int) -> np.ndarray:
            return slide.read(x, y + top * downsample, cols, bottom - top, downsample)

        stack.pop_all()
        pixels = LazyImage((rows, cols, 3), read)
        return LowImage(pixels, times or factor or 1, downsample, (x, y), SourceInfo.of(slide), slide)


def _times_coarser(model: Model, slide: Slide, target: Resolution, to: float | None) -> int | None:
    """Find by which factor of the model's an image is coarser than what it makes; None where that is not known."""
    factors, name = factors_of(model), model.info.name
    finest = Scale("um", model.mpp) if model.mpp else None
    if finest is None and model.info.base_gsd:
        finest = Scale("m", model.info.base_gsd)
    if to is not None and (finest is None or finest.unit != "um"):
        raise InputError(f"`to` {to:g}: model {name} knows no magnification; give `factor`")
    if to is not None and finest is not None and abs(to / mag_of(finest.size) - 1) > NEAR:
        raise InputError(f"`to` {to:g}: model {name} makes {mag_of(finest.size):.4g}x, no other")
    found = target.scale() or slide.scale
    if finest is None or found.unit == "px":
        return None
    if found.unit != finest.unit:
        raise InputError(f"{slide.path}: {found}, but model {name} knows {finest}: choose another `model`")
    times = found.size / finest.size
    near = [factor for factor in factors if abs(times / factor - 1) <= NEAR]
    if not near:
        known = ", ".join(str(Scale(finest.unit, finest.size * factor)) for factor in factors)
        way = "`mag`" if finest.unit == "um" else "`gsd`"
        raise InputError(
            f"{slide.path}: {found}; model {name} makes {finest} of {known}: say with {way} at which to read it"
        )
    return near[0]


def parse_rectangle(text: str, field: str = "region") -> tuple[int, int, int, int]:
    """Read a rectangle: `X,Y,W,H` in level-0 pixels -> (x, y, width, height).

    Args:
        text: What was given.
        field: The parameter, for the message.

    Raises:
        InputError: For anything else, and for one without area.
    """
    match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text.replace(" ", ""))
    if not match or not int(match[3]) or not int(match[4]):
        raise InputError(f"`{field}` {text}: give X,Y,W,H: the corner, width and height in level-0 pixels")
    return int(match[1]), int(match[2]), int(match[3]), int(match[4])
