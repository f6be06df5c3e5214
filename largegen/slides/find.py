"""The files that paths stand for: slides, images, and files of other suffixes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from largegen.errors import InputError
from largegen.slides.deepzoom_reader import tiles_directory

SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm"),
    *(".vms", ".vmu", ".svslide", ".czi", ".dzi", ".png", ".jpg", ".jpeg"),
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def find_files(
    paths: Sequence[Path | str],
    suffixes: Sequence[str] = SUFFIXES,
    *,
    what: str = "slides",
    hint: str = "",
    recursive: bool = False,
) -> list[Path]:
    """Find the files that paths stand for, each once: a file stands for itself, a directory for its files.

    Hidden files, the tiles of DeepZoom trees, and of a folder of DICOM files all but the first are none of a
    directory's files.

    Args:
        paths: files and directories.
        suffixes: of a directory's files, in lower case.
        what: the files are, for messages.
        hint: what to do where a directory has none, for messages.
        recursive: whether a directory's files are also those below it.

    Returns:
        Files in the order of `paths`, those of a directory sorted.

    Raises:
        InputError: there is no path, one does not exist, or a directory has no such file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"{path}: no such file or directory")
            found.append(path)
            continue
        inside = sorted(_walk(path, suffixes, recursive))
        if not inside:
            below = " or below" if recursive else ""
            raise InputError(f"{path}: no {what} in this directory{below} (looked for {' '.join(suffixes)}){hint}")
        found += inside
    if not found:
        raise InputError(f"no {what} given")
    return list(dict.fromkeys(found))


def _walk(directory: Path, suffixes: Sequence[str], recursive: bool) -> Iterator[Path]:
    for folder, below, names in os.walk(directory):
        files = [Path(folder, n) for n in sorted(names) if n[0] != "." and Path(n).suffix.lower() in suffixes]
        files = [file for file in files if file.is_file()]  # not links that lead nowhere
        trees = {tiles_directory(file).name for file in files if file.suffix.lower() == ".dzi"}
        below[:] = [name for name in below if recursive and name[0] != "." and name not in trees]
        dicom = [file for file in files if file.suffix.lower() == ".dcm"]
        yield from (file for file in files if file not in dicom[1:])
