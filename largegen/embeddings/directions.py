"""A file of directions in an encoder's space, by name: those along which `largegen edit --move` goes."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from largegen.errors import InputError, first_line
from largegen.runtime.files import atomic

ENCODER, FINGERPRINT = "_encoder", "_encoder_fingerprint"  # texts among the arrays


@dataclass(frozen=True)
class Directions:
    """Directions in the space of an encoder."""

    ways: dict[str, np.ndarray]  # (D,) float32, by name
    encoder: str = ""  # whose space it is; "": not known
    encoder_fingerprint: str = ""

    def save(self, path: Path) -> None:
        """Write them as a NumPy file, .npz."""
        texts = {ENCODER: np.array(self.encoder), FINGERPRINT: np.array(self.encoder_fingerprint)}
        with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, value in {**self.ways, **texts}.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, value)

    @classmethod
    def read(cls, path: Path) -> "Directions":
        """Read such a file, or one that `numpy.savez` has written.

        Raises:
            InputError: For another file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                texts = {name: str(file[name]) for name in (ENCODER, FINGERPRINT) if name in file.files}
                ways = {name: file[name].astype(np.float32) for name in file.files if name not in texts}
        except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"`directions` {path}: not readable as .npz of numbers: {first_line(error)}") from error
        return cls(ways, texts.get(ENCODER, ""), texts.get(FINGERPRINT, ""))

    def check(self, encoder: str, encoder_fingerprint: str | None, path: Path) -> None:
        """Raise InputError where they are known to be of another encoder; `path`: theirs."""
        known = bool(self.encoder_fingerprint and encoder_fingerprint)
        own, asked = (self.encoder_fingerprint, encoder_fingerprint) if known else (self.encoder, encoder)
        if own and own != asked:
            raise InputError(f"`directions` {path}: of {self.encoder}, but the model needs {encoder}")
