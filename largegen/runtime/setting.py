"""What a setting is for, said once: beside its field in a dataclass, of which the command line makes an option."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """Describes a field: `steps: Annotated[int, Setting("Denoising steps.", min=1)] = 50`."""

    help: str  # a sentence; other fields of the same dataclass stand in backticks
    min: float | None = None  # the least value that is allowed
    max: float | None = None  # the greatest
    unset: str | None = None  # what the default stands for, where that is found out later: "half a window"
    auto: Any = None  # the value for which users write `auto`


SEED = Setting("Seed of everything random.", min=0, max=2**63 - 1)  # the same range for all commands
