"""How images are sampled: the settings that the command line and the library share."""

import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from largegen.errors import InputError
from largegen.runtime.setting import SEED, Setting

SCHEDULERS = ("ddim", "dpm++", "unipc")  # and lcm, of distilled models
WINDOWS = ("overlap", "shift")
ZOOM_METHODS = ("fast", "published")
INVERSION_STARTS = ("view", "noise")
ZOOM_STEPS = 20  # [Z]: the guide holds the image together, so fewer steps suffice
STEPS = 50  # of a model that is not distilled [L]
MAX_STEPS = 1000  # timesteps of the noise schedule
MAX_LCM_STEPS = 50  # of the path that students learn: `lcm` takes some of its steps
MAX_STUDENT_STEPS = 8  # for more of them a model is taken, not its distilled form: it gains nothing from them
MAX_SEAM_STEPS = 300  # timesteps of the pass against seams


def check_spacing(steps: int, of: int) -> None:
    """Raise InputError for a number of timesteps for which rounding in diffusers adds one (61, 103 and 60 others)."""

    def even(count: int) -> bool:
        return math.ceil(of / (of / count)) == count  # as numpy.arange counts them

    if not even(steps):
        nearest = next(count for count in range(steps - 1, 0, -1) if even(count))
        raise InputError(f"`steps` {steps}: cannot be spaced evenly; use {nearest}")


@dataclass(frozen=True)
class Sampling:
    """How a canvas is sampled.

    The defaults are the cheapest settings without a loss of quality, see docs/measurements.md.
    """

    # 0: see generate.resolve_defaults
    steps: Annotated[
        int,
        Setting(
            "Denoising steps: auto or a number. auto is those that a distilled model is made for, else 50, of zoom and"
            " upscale 20.",
            auto=0,
        ),
    ] = 0
    # eps_null + guidance * (eps_cond - eps_null)
    guidance: Annotated[
        float, Setting("Guidance scale: 1 is none; higher values follow the reference more closely.", min=0.0)
    ] = 2.0
    eta: Annotated[float, Setting("Noise added by DDIM, 0 to 1.")] = 0.0
    scheduler: Annotated[
        str,
        Setting(
            "auto, ddim, dpm++, unipc or lcm. auto is a distilled model's own with its number of steps, else ddim."
        ),
    ] = "auto"
    distilled: Annotated[
        bool, Setting("Take the model itself, not its distilled form of few steps with guidance in one call.")
    ] = True
    windows: Annotated[str, Setting("overlap: every `stride`; shift: side by side, moved at random at every step.")] = (
        "shift"
    )
    stride: Annotated[int, Setting("Latents between overlapping windows.", min=0, unset="half a window")] = 0
    timesteps: tuple[int, ...] = ()  # of the steps, the noisiest first; none: those that the scheduler lays
    guided: tuple[
        int, ...
    ] = ()  # of `timesteps`, the first that is guided, and the first after them that is not; none: all are
    rescale: float = 0.0  # see denoise.guided
    # latents between decoded windows; 0: half a window, with a margin of an eighth; once resolved, 0 is whole blocks
    decode_stride: int = 0
    # latents at a decoded window's or block's inner edges that do not count: the decoder saw padding there
    decode_margin: int = 0
    batch_size: Annotated[
        int, Setting("Windows through the network at once: auto (what suits the device) or a number.", auto=0)
    ] = 0
    seed: Annotated[int, SEED] = 0

    def calls(self, steps: range) -> int:
        """Count the calls of the denoiser for a window at some steps: two under guidance, unless it is distilled."""
        if self.distilled or self.guidance in (0, 1):
            return len(steps)
        first, last = self.guided or (0, self.steps)
        return len(steps) + sum(first <= step < last for step in steps)

    @property
    def guided_between(self) -> tuple[int, int] | None:
        """The least and the greatest timestep that is guided; None: all are."""
        return (self.timesteps[self.guided[1] - 1], self.timesteps[self.guided[0]]) if self.guided else None

    def check(self, window: int | None = None) -> None:
        """Raise InputError for invalid settings.

        Args:
            window: side of the model's window, in latents; None: check only what does not depend on a model.
        """
        if self.scheduler not in ("auto", *SCHEDULERS, "lcm"):
            raise InputError(f"`scheduler` {self.scheduler}: use one of auto, {', '.join(SCHEDULERS)}, lcm")
        if self.windows not in WINDOWS:
            raise InputError(f"`windows` {self.windows}: use one of auto, {', '.join(WINDOWS)}")
        if not 0 <= self.steps <= MAX_STEPS:
            raise InputError(f"`steps` {self.steps}: must be between 1 and {MAX_STEPS}, or 0 for the default")
        if self.steps and self.scheduler != "lcm":
            check_spacing(self.steps, MAX_STEPS)
        if not 0 <= self.guidance < math.inf:
            raise InputError(f"`guidance` {self.guidance}: must be 0 or more")
        if not 0 <= self.eta <= 1 or (self.eta and self.scheduler not in ("auto", "ddim")):
            raise InputError(f"`eta` {self.eta}: between 0 and 1, and 0 for any scheduler but ddim")
        if self.batch_size < 0:
            raise InputError(f"`batch_size` {self.batch_size}: must be 1 or more, or 0 for auto")
        if self.stride and self.windows != "overlap":
            raise InputError(f"`stride` {self.stride}: only with `windows` overlap")
        overlap = window - self.decode_stride if window and self.decode_stride else None
        if self.decode_margin < 0 or (overlap is not None and 2 * self.decode_margin > overlap):
            raise InputError(f"`decode_margin` {self.decode_margin}: at most half of what decoded windows overlap")
        for name, stride in (("stride", self.stride), ("decode_stride", self.decode_stride)):
            if stride < 0:
                raise InputError(f"`{name}` {stride}: must be 1 or more, or 0 for the default")
            if window is not None and stride > window:
                raise InputError(f"`{name}` {stride}: must be between 1 and the model's window of {window} latents")


@dataclass(frozen=True)
class Imagining:
    """How a grid of embeddings is sampled where there is no reference."""

    label: Annotated[
        str | None, Setting("What it shall be, where no reference says it: one of the prior's labels.")
    ] = None
    prompt: Annotated[
        str | None, Setting("What it shall show, in words, where no reference says it. Needs largegen[text].")
    ] = None
    prior: Annotated[
        Path | None, Setting("Grid prior that invents embeddings where no reference has them.", unset="the model's own")
    ] = None
    # eps_null + guidance * (eps_cond - eps_null), of the prior
    prior_guidance: Annotated[
        float, Setting("How closely the embeddings follow label or prompt: 1 is no guidance, 0 ignores them.", min=0.0)
    ] = 4.0
    prior_steps: Annotated[int, Setting("Denoising steps of the embeddings.", min=1, max=MAX_STEPS)] = 50

    @property
    def given(self) -> bool:
        """Whether anything asks for a picture without a reference."""
        return not (self.label is None and self.prompt is None and self.prior is None)

    @property
    def name(self) -> str:
        """A name for what is sampled, for files."""
        words = re.findall(r"[\w-]+", self.label or self.prompt or "imagined")
        return "-".join(words)[:40] or "imagined"

    def sampling(self, window: int, seed: int) -> Sampling:
        """Return how the canvas of the grid is sampled: windows of the prior every half window."""
        return Sampling(
            steps=self.prior_steps,
            guidance=1.0 if self.label is None and self.prompt is None else self.prior_guidance,
            scheduler="ddim",
            distilled=False,
            windows="overlap",
            stride=max(1, window // 2),
            batch_size=16,
            seed=seed,
        )


@dataclass(frozen=True)
class Zooming:
    """How an image is made to agree with its guide; all fields but `method` are of the published method [Z]."""

    method: Annotated[
        str,
        Setting(
            "fast: a draft, the guide from it, then the image under the guide; published: guide and tiles at once by"
            " inner iterations, then a pass that removes seams."
        ),
    ] = "fast"
    # K; 0 leaves the tiles alone
    inner_steps: Annotated[int, Setting("Iterations towards the guide, per tile and step (published).")] = 10
    inner_rate: Annotated[float, Setting("Rate of each of them (published).")] = 0.5
    fd_step: Annotated[float, Setting("Step h of their forward differences (published).")] = 0.005
    seam_steps: Annotated[int, Setting("Steps of the pass that removes seams; 0 switches it off (published).")] = 6

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that the method has."""
        return {"method": self.method} if self.method == "fast" else asdict(self)

    def check(self, default: "Zooming | None" = None) -> None:
        """Raise InputError for invalid settings; `default`: those that the method fast leaves as they are."""
        if self.method not in ZOOM_METHODS:
            raise InputError(f"`method` {self.method}: use one of {', '.join(ZOOM_METHODS)}")
        if self.inner_steps < 0:
            raise InputError(f"`inner_steps` {self.inner_steps}: must be 0 or more")
        if not 0 <= self.seam_steps <= MAX_SEAM_STEPS:
            raise InputError(f"`seam_steps` {self.seam_steps}: must be between 0 and {MAX_SEAM_STEPS}")
        for name, value in (("inner_rate", self.inner_rate), ("fd_step", self.fd_step)):
            if not 0 < value < math.inf:
                raise InputError(f"`{name}` {value}: must be more than 0")
        if self.method == "fast" and self != (default or Zooming()):
            raise InputError("`inner_steps`, `inner_rate`, `fd_step`, `seam_steps`: only with `method` published")

    def canvas_sampling(self, sampling: Sampling, window: int) -> Sampling:
        """Return how the canvas is sampled: under its guide (fast), or by the pass against seams (published)."""
        if self.method == "fast":
            return replace(sampling, windows="shift", stride=0)
        return replace(sampling, windows="overlap", stride=max(1, window // 4))


UPSCALING = Zooming(inner_steps=5)  # how an image is made to agree with a guide that is fixed [Z]


@dataclass(frozen=True)
class Inversion:
    """How the embeddings under an image that is to be enlarged are found: see sampling/zoom/invert.py."""

    start: Annotated[
        str,
        Setting(
            "Where the search for the conditions starts: view (what the encoder sees in the image, enlarged) or noise"
            " (as published)."
        ),
    ] = "view"
    invert_steps: Annotated[
        int, Setting("Steps of the search, at most; 0 takes what it starts from.", min=0, max=MAX_STEPS)
    ] = 200
    invert_rate: Annotated[float, Setting("Its learning rate.")] = 0.1

    def check(self) -> None:
        """Raise InputError for invalid settings."""
        if self.start not in INVERSION_STARTS:
            raise InputError(f"`start` {self.start}: use one of {', '.join(INVERSION_STARTS)}")
        if not 0 <= self.invert_steps <= MAX_STEPS:
            raise InputError(f"`invert_steps` {self.invert_steps}: must be between 0 and {MAX_STEPS}")
        if not 0 < self.invert_rate < math.inf:
            raise InputError(f"`invert_rate` {self.invert_rate:g}: must be more than 0")
