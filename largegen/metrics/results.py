"""What an evaluation finds: figures with all that says how far to trust them."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from largegen.errors import InputError


class NotApplicable(InputError):
    """A metric that the inputs do not allow: left out unless it was asked for."""


class IncompatibleStatistics(NotApplicable):
    """Saved statistics that were made another way than those they would be compared with."""


@dataclass(frozen=True)
class Figure:
    """One metric's value for one magnification."""

    metric: str  # as `--metrics` names it: crop-fid, fd:starter, seam...
    name: str  # for people: "Crop FID", "Fréchet distance, starter"
    value: float
    better: str  # "lower", "higher", or "one" where 1 is best (seam)
    real_count: int  # samples on each side
    fake_count: int
    interval: tuple[float, float] | None = None  # 95 %, by bootstrap
    standard_error: float | None = None
    infinity: float | None = None  # extrapolated to infinitely many samples
    floor: float | None = None  # the same figure of real against real
    note: str = ""  # what to know when reading it, one line


@dataclass(frozen=True)
class LevelFigures:
    """The figures at one resolution."""

    level: str  # "20x", "0.6 m/px", or "pixels" where no resolution is known
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class LeftOut:
    """What was not computed, and why, in one line."""

    metric: str  # or several, with commas
    why: str


@dataclass(frozen=True)
class Evaluation:
    """All that `largegen eval` says: the table, the JSON and the report are made of it."""

    real: dict[str, Any]  # the set: "paths", "images" (their number), "crops", "compression"
    fake: dict[str, Any]
    levels: tuple[LevelFigures, ...]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # everything that the figures depend on

    def reworded(self, reword: Callable[[str], str]) -> "Evaluation":
        """Apply `reword` to what was left out and to the warnings, which may name parameters in backticks."""
        left_out = tuple(replace(left, why=reword(left.why)) for left in self.left_out)
        return replace(self, left_out=left_out, warnings=tuple(map(reword, self.warnings)))

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object: strict, so null stands for what is infinite."""
        content: dict[str, Any] = _finite(asdict(self))
        return content


def _finite(content: Any) -> Any:
    """Copy nested content with None for the numbers that JSON has not."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
