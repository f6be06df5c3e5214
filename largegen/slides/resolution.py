"""Resolution: magnification, um per pixel (mpp) and metres per pixel (gsd); how they are asked for and named."""

import math
from typing import NamedTuple, Protocol

from largegen.errors import InputError

DEFAULT_MAG = 20.0  # of slides, where nothing else is asked for
SCALE_TOLERANCE = 0.02  # resolutions that differ by no more than this part are one


def mpp_of(mag: float) -> float:
    """Convert a magnification to um per pixel: 20x is 0.5 um."""
    return 10 / mag


def mag_of(mpp: float) -> float:
    """Convert um per pixel to a magnification: 0.5 um is 20x."""
    return 10 / mpp


class Scale(NamedTuple):
    """The size of a pixel: in "um" (slides), in "m" (scenes), or in "px", its own, where it is not known."""

    unit: str
    size: float

    def __str__(self) -> str:
        magnification = f" ({_magnification(self.size)})" if self.unit == "um" else ""
        return f"{self.size:.4g} {self.unit}/px{magnification}" if self.unit != "px" else "no known resolution"

    @property
    def level_name(self) -> str:
        """As `Level.name`."""
        if self.unit == "um":
            return _magnification(self.size)
        return f"{self.size:.4g} m/px" if self.unit == "m" else "pixels"


PIXELS = Scale("px", 1.0)


class HasResolution(Protocol):
    """What is asked of an open slide, see slide.py."""

    kind: str
    mpp: float | None
    gsd_m: float | None

    def downsample_for(self, mag: float | None, mpp: float | None, gsd_m: float | None) -> float:
        """Find how many level-0 pixels make a pixel of a resolution."""


class Resolution(NamedTuple):
    """A resolution as people give it. The order is that of `open_slide`."""

    mpp: float | None = None  # um per px
    mag: float | None = None  # 20 is 0.5 um per px
    gsd: float | None = None  # metres per px

    def check(self, prefix: str = "", single: bool = True) -> None:
        """Check what was given.

        Args:
            prefix: of the parameters' names: "real_" for `real_mag`.
            single: whether only one may be given.

        Raises:
            InputError: one is not positive, or there are several.
        """
        given = {f"{prefix}{name}": value for name, value in self._asdict().items() if value is not None}
        if single:
            check_only_one(**given)
        for name, value in given.items():
            check_positive(name, value)

    def scale(self) -> Scale | None:
        """Return the size of a pixel that it means; None where nothing is given."""
        if self.gsd is not None:
            return Scale("m", self.gsd)
        mpp = self.as_mpp
        return None if mpp is None else Scale("um", mpp)

    @property
    def as_mpp(self) -> float | None:
        """Micrometres per pixel, as given or by the magnification."""
        return self.mpp if self.mpp is not None else mpp_of(self.mag) if self.mag is not None else None

    def magnification(self, slide: HasResolution) -> float | None:
        """Return the magnification to work at, if it is one: DEFAULT_MAG for a slide where nothing is given.

        An image of which only metres per pixel are known counts as a scene.
        """
        in_metres = slide.kind == "scene" or (slide.mpp is None and slide.gsd_m is not None)
        return DEFAULT_MAG if self == UNKNOWN and not in_metres else self.mag

    def downsample(self, slide: HasResolution) -> float:
        """Return the level-0 px per pixel to work at; a scene's own where nothing is given."""
        return slide.downsample_for(mag=self.magnification(slide), mpp=self.mpp, gsd_m=self.gsd)


UNKNOWN = Resolution()


def check_positive(name: str, value: float | None) -> None:
    """Raise InputError, naming the parameter, unless a value is None or a positive number."""
    if value is not None and not 0 < value < float("inf"):
        raise InputError(f"`{name}` {value}: must be a positive number")


def check_only_one(**given: object) -> None:
    """Raise InputError where more than one of some parameters is given: neither None nor False."""
    names = [f"`{name}`" for name, value in given.items() if value is not None and value is not False]
    if len(names) > 1:
        raise InputError(f"{', '.join(names)}: give only one of them")


def parameter_for(scale: Scale) -> str:
    """Say how to ask for a scale, for messages."""
    return f"`gsd` {scale.size:.4g}" if scale.unit == "m" else f"`mpp` {scale.size:.4g}"


def _magnification(mpp: float) -> str:
    """Name the objective (40x, 20x, ... 1.25x and so on) within 1 % of a resolution, else give three digits."""
    magnification = mag_of(mpp)
    objective = 40 * 2.0 ** round(math.log2(magnification / 40))
    near = abs(magnification / objective - 1) <= SCALE_TOLERANCE / 2  # so that two levels never share a name
    return f"{objective:g}x" if near else f"{magnification:.3g}x"
