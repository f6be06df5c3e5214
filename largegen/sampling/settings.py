"""How a canvas is sampled: the settings that the command line and the library share."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from largegen.errors import InputError

SCHEDULERS = ("ddim", "dpm++", "unipc")
WINDOWS = ("overlap", "shift")
ZOOM_METHODS = ("fast", "published")
ZOOM_STEPS = 20  # [Z]: the guide holds the image together, so fewer steps do


@dataclass(frozen=True)
class Sampling:
    """How a canvas is sampled. The defaults are the cheapest setting without a loss, see the README's table."""

    steps: int = 50  # of the scheduler
    guidance: float = 4.0  # eps_null + guidance * (eps_cond - eps_null)
    eta: float = 0.0  # DDIM's added noise, 0 to 1
    scheduler: str = "ddim"  # ddim, dpm++ or unipc
    windows: str = "shift"  # overlap or shift
    stride: int = 0  # latents between overlapping windows; 0: half a window
    decode_stride: int = 0  # latents between decoded windows; 0: half a window, with a margin of an eighth
    decode_margin: int = 0  # latents at a decoded window's inner edges that do not count: the decoder saw padding there
    batch_size: int = 0  # windows at once; 0: what suits the device
    seed: int = 0

    def check(self, window: int | None = None) -> None:
        """Raise an InputError for what cannot be sampled, or not with a model of this window (in latents)."""
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"--scheduler {self.scheduler}: use one of {', '.join(SCHEDULERS)}")
        if self.windows not in WINDOWS:
            raise InputError(f"--windows {self.windows}: use one of {', '.join(WINDOWS)}")
        if not 1 <= self.steps <= 1000:
            raise InputError(f"--steps {self.steps}: must be between 1 and 1000")
        if not 0 <= self.guidance < math.inf:
            raise InputError(f"--guidance {self.guidance}: must be 0 or more")
        if not 0 <= self.eta <= 1 or (self.eta and self.scheduler != "ddim"):
            raise InputError(f"--eta {self.eta}: between 0 and 1, and 0 for any scheduler but ddim")
        if self.batch_size < 0:
            raise InputError(f"--batch-size {self.batch_size}: must be 1 or more, or 0 for auto")
        if self.stride and self.windows != "overlap":
            raise InputError(f"--stride {self.stride}: only with --windows overlap")
        if self.decode_margin < 0 or (window is not None and 2 * self.decode_margin > window - self.decode_stride):
            raise InputError(f"decode_margin {self.decode_margin}: at most half of what decoded windows overlap")
        for name, stride in (("--stride", self.stride), ("decode_stride", self.decode_stride)):
            if stride < 0:
                raise InputError(f"{name} {stride}: must be 1 or more, or 0 for the default")
            if window is not None and stride > window:
                raise InputError(f"{name} {stride}: must be between 1 and the model's window of {window} latents")


@dataclass(frozen=True)
class Zooming:
    """How an image is made to agree with its guide; all but the method is of the published one [Z]."""

    method: str = "fast"  # fast or published
    inner_steps: int = 10  # K, per tile and step; 0 leaves the tiles alone
    inner_rate: float = 0.5  # of each inner step
    fd_step: float = 0.005  # h, of its forward differences
    seam_steps: int = 6  # of the pass against seams; 0: none

    def as_dict(self) -> dict[str, Any]:
        """The settings that the method has."""
        return {"method": self.method} if self.method == "fast" else asdict(self)

    def check(self) -> None:
        """Raise an InputError for what cannot be."""
        if self.method not in ZOOM_METHODS:
            raise InputError(f"--method {self.method}: use one of {', '.join(ZOOM_METHODS)}")
        if self.inner_steps < 0:
            raise InputError(f"--inner-steps {self.inner_steps}: must be 0 or more")
        if not 0 <= self.seam_steps <= 300:
            raise InputError(f"--seam-steps {self.seam_steps}: must be between 0 and 300")
        for name, value in (("--inner-rate", self.inner_rate), ("--fd-step", self.fd_step)):
            if not 0 < value < math.inf:
                raise InputError(f"{name} {value}: must be more than 0")
        if self.method == "fast" and self != Zooming():
            raise InputError("--inner-steps, --inner-rate, --fd-step, --seam-steps: only with --method published")
