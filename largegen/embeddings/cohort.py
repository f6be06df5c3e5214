"""Several embedding files that belong together."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.settings import EmbeddingSettings
from largegen.errors import EmbeddingFileError
from largegen.slides.find import find_files

log = logging.getLogger(__name__)

SAME_RESOLUTION = 1.2  # by so much may the pixels of tiles differ that count as one magnification: scanners do


def find_embeddings(paths: Sequence[Path], recursive: bool = False) -> list[Path]:
    """Find the embedding files among files and directories.

    Args:
        paths: Files and directories.
        recursive: Whether a directory's files are also those below it.

    Raises:
        InputError: Where there is none.
    """
    hint = "; `largegen embed` makes them"
    return find_files(paths, (".h5",), what="embedding files", hint=hint, recursive=recursive)


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
    for file in files:
        for unit, size in (("um", "working_mpp"), ("m", "working_gsd")):
            mine, theirs = getattr(file.settings, size), getattr(first.settings, size)
            if mine and theirs and differ_much(mine, theirs):
                log.warning(
                    "%s: its tiles have %.4g %s/px, those of %s %.4g: taken together all the same",
                    *(file.path, mine, unit, first.path, theirs),
                )
    if unknown and first not in unknown:
        log.warning(
            "%s%s: not known which weights of %s its embeddings are of; taken for those of %s (%s)",
            *(unknown[0].path, f" and {len(unknown) - 1} more" if len(unknown) > 1 else "", first.settings.encoder),
            *(first.path, first.settings.encoder_fingerprint),
        )
    return first.settings


def differ_much(one: float, other: float) -> bool:
    """Tell whether two sizes of pixels are of different magnifications, and not of two scanners."""
    return abs(math.log(one / other)) > math.log(SAME_RESOLUTION)
