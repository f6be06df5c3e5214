"""The steps that suit a model best, as `largegen tune` found them; a file of its directory."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from largegen.runtime.files import read_if_there, write_json

FILE = "tuned.json"


@dataclass(frozen=True)
class Tuned:
    """Few steps of a model that come near to its many; the content of tuned.json."""

    timesteps: tuple[int, ...]  # the noisiest first
    guided: tuple[int, int]  # of them, those from the first to before the second are guided
    rescale: float  # part by which guided noise is brought back to its spread without guidance
    guidance: float  # that they were found for
    distance: float  # Fréchet, of latents, to the model's own 50 steps
    distance_of_20: float  # of 20 even steps

    @classmethod
    def load(cls, directory: Path) -> "Tuned | None":
        """Read that of a model directory; None where there is none. Raises ModelError for a damaged one."""
        return read_if_there(directory / FILE, cls._of)

    @classmethod
    def _of(cls, found: dict[str, Any]) -> "Tuned":
        first, last = found["guided"]
        values = {f.name: found[f.name] for f in fields(cls)}
        return cls(**values | {"timesteps": tuple(found["timesteps"]), "guided": (int(first), int(last))})

    def save(self, directory: Path) -> None:
        """Write it into a model directory."""
        write_json(directory / FILE, asdict(self))
