"""The slides and images that paths stand for."""

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


def find_slides(paths: Sequence[Path | str]) -> list[Path]:
    """Files as given, and for each directory its files of known suffixes, sorted.

    The DICOM files of one folder are one slide. Raises InputError for a path that does not exist and for a
    directory without slides.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or directory")
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
        dicom = [file for file in files if file.suffix.lower() == ".dcm"]
        files = [file for file in files if file.is_file() and file not in dicom[1:]]
        if not files:
            raise InputError(f"{path}: no slides in this directory (looked for {' '.join(SUFFIXES)})")
        found += files
    if not found:
        raise InputError("no slides given")
    return list(dict.fromkeys(found))


def walk_images(directory: Path) -> Iterator[Path]:
    """Images in a directory and below; not the tiles of DeepZoom trees, and of a folder of DICOM files the first."""
    for folder, below, names in os.walk(directory):
        files = [Path(folder, n) for n in sorted(names) if n[0] != "." and Path(n).suffix.lower() in SUFFIXES]
        trees = {tiles_directory(file).name for file in files if file.suffix.lower() == ".dzi"}
        below[:] = [name for name in below if name[0] != "." and name not in trees]
        dicom = [file for file in files if file.suffix.lower() == ".dcm"]
        yield from (file for file in files if file not in dicom[1:])
