"""Resolution: as people ask for it, as images have it, and its names."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from largegen.errors import InputError

if TYPE_CHECKING:
    from largegen.slides.slide import Slide


DEFAULT_MAG = 20.0
SCALE_TOLERANCE = 0.02  # resolutions that differ by no more than this part are one


class Resolution(NamedTuple):
    """A resolution as people give it; at most one is needed. The order is that of `open_slide`."""

    mpp: float | None = None  # um per px
    mag: float | None = None  # 20 is 0.5 um per px
    gsd: float | None = None  # metres per px


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


UNKNOWN = Resolution()
PIXELS = Scale("px", 1.0)


def wanted_scale(resolution: Resolution, prefix: str = "") -> Scale | None:
    """What a resolution means, None for none. Raises InputError for one that is not positive, and for two.

    prefix: of the options' names: real- for --real-mag.
    """
    given = {name: value for name, value in resolution._asdict().items() if value is not None}
    if len(given) > 1:
        raise InputError(f"{' and '.join(f'--{prefix}{name}' for name in given)}: give one of them")
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise InputError(f"--{prefix}{name} {value}: must be a positive number")
        return Scale("m", value) if name == "gsd" else Scale("um", value if name == "mpp" else 10 / value)
    return None


def flag_for(scale: Scale) -> str:
    """How to ask for it on the command line."""
    return f"--gsd {scale.size:.4g}" if scale.unit == "m" else f"--mpp {scale.size:.4g}"


def _magnification(mpp: float) -> str:
    """10 / mpp: the objective (40x, 20x, ... 1.25x and so on) within 1 % of it, else to three digits."""
    magnification = 10 / mpp
    objective = 40 * 2.0 ** round(math.log2(magnification / 40))
    near = abs(magnification / objective - 1) <= SCALE_TOLERANCE / 2  # so that two levels never share a name
    return f"{objective:g}x" if near else f"{magnification:.3g}x"


@dataclass(frozen=True)
class Target:
    """The resolution to work at; none given means 20x for slides, a scene's own resolution."""

    mag: float | None  # 20 is 0.5 um/px
    mpp: float | None  # um/px
    gsd: float | None  # m/px

    def magnification(self, slide: "Slide") -> float | None:
        none_given = self.mag is None and self.mpp is None and self.gsd is None
        return DEFAULT_MAG if none_given and slide.kind != "scene" else self.mag

    def downsample(self, slide: "Slide") -> float:
        """Level-0 px per pixel of the target."""
        return slide.downsample_for(mag=self.magnification(slide), mpp=self.mpp, gsd_m=self.gsd)
