"""Several embedding files that belong together."""

import logging
from collections.abc import Sequence
from pathlib import Path

from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.settings import EmbeddingSettings
from largegen.errors import EmbeddingFileError
from largegen.slides.find import find_files

log = logging.getLogger(__name__)


def find_embeddings(paths: Sequence[Path]) -> list[Path]:
    """Find the embedding files among files and directories.

    Raises:
        InputError: Where there is none.
    """
    return find_files(paths, (".h5",), what="embedding files", hint="; `largegen embed` makes them")


def check_together(files: Sequence[EmbeddingFile]) -> EmbeddingSettings:
    """Check that files can be used together.

    Files that do not say which weights their encoder had, as imported ones, go with those that do, with a warning.

    Returns:
        The settings that all files share.

    Raises:
        EmbeddingFileError: Where encoder, dimension or tile size differ, or a file holds no tile.
    """
    unknown = [file for file in files if not file.settings.encoder_fingerprint]
    first = next((file for file in files if file not in unknown), files[0])
    for file in files:
        for key in ("encoder", "dim", "tile_px", *(["encoder_fingerprint"] if file not in unknown else [])):
            mine, theirs = getattr(file.settings, key), getattr(first.settings, key)
            if mine != theirs:
                raise EmbeddingFileError(f"{file.path}: {key} {mine}, but {first.path} has {theirs}")
        if not file.count:
            raise EmbeddingFileError(f"{file.path}: holds no tile")
    if unknown and first not in unknown:
        log.warning(
            "%s%s: not known which weights of %s its embeddings are of; taken for those of %s (%s)",
            *(unknown[0].path, f" and {len(unknown) - 1} more" if len(unknown) > 1 else "", first.settings.encoder),
            *(first.path, first.settings.encoder_fingerprint),
        )
    return first.settings


def working_mpp(file: EmbeddingFile) -> float | None:
    """Return the micrometres per tile px; None where unknown."""
    mpp = file.settings.mpp
    return None if mpp is None else round(mpp * file.settings.downsample, 4)


def working_gsd(file: EmbeddingFile) -> float | None:
    """Return the metres per tile px; None where unknown."""
    gsd = file.settings.gsd_m
    return None if gsd is None else round(gsd * file.settings.downsample, 4)
