"""The files that paths stand for: slides, images, and files of other suffixes."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from largegen.errors import InputError
from largegen.runtime.outputs import protect
from largegen.slides.by_products import is_made_beside_an_image, is_preview

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
SUFFIXES = (
    *(".svs", *TIFF_SUFFIXES, ".qptiff", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm"),
    *(".vms", ".vmu", ".svslide", ".czi", ".dzi", ".png", ".jpg", ".jpeg", ".webp"),
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BESIDE = (".msk", ".ovr", ".aux.xml")  # what GDAL keeps beside an image, after its whole name
MOST_NAMED = 3  # of what was left out

log = logging.getLogger(__name__)


def find_files(
    paths: Sequence[Path | str],
    suffixes: Sequence[str] = SUFFIXES,
    *,
    what: str = "slides",
    hint: str = "",
    recursive: bool = False,
    by_products: bool = True,
) -> list[Path]:
    """Find the files that paths stand for, each once: a file stands for itself, a directory for its files.

    Hidden files, the previews of `largegen embed`, the tiles of DeepZoom trees, and of a folder of DICOM files all but
    the first are none of a directory's files. One line of the log says what else in a directory was left out, and why.
    No output of the running command may be one of the files, see runtime/outputs.py.

    Args:
        paths: files and directories.
        suffixes: of a directory's files, in lower case.
        what: the files are, for messages.
        hint: what to do where a directory has none, for messages.
        recursive: whether a directory's files are also those below it, links to directories followed.
        by_products: whether what `largegen zoom` makes beside an image, its guide and levels, are a directory's files.

    Returns:
        Files in the order of `paths`, those of a directory sorted.

    Raises:
        InputError: there is no path, one does not exist, or a directory has no such file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                lost = "a link that leads nowhere" if path.is_symlink() else "no such file or directory"
                raise InputError(f"{path}: {lost}")
            found.append(path)
            continue
        left_out = _LeftOut()
        inside = sorted(_walk(path, suffixes, recursive, by_products, left_out))
        if not inside:
            below = " or below" if recursive else ""
            left_out.suffixes.clear()  # the message says which were looked for
            rest = f"; left out: {left_out}" if str(left_out) else ""
            raise InputError(
                f"{path}: no {what} in this directory{below} (looked for {' '.join(suffixes)}){rest}{hint}"
            )
        if str(left_out):
            log.info("%s: %d %s; left out: %s", path, len(inside), what, left_out)
        found += inside
    if not found:
        raise InputError(f"no {what} given")
    once: dict[str, Path] = {}
    for file in found:
        once.setdefault(os.path.realpath(file), file)
        protect([file, *belonging(file)])
    return list(once.values())


def tiles_directory(path: Path) -> Path:
    """Name the directory beside a `.dzi` that holds its tiles."""
    return path.with_name(f"{path.stem}_files")


def world_files(path: Path) -> list[Path]:
    """List the world files beside an image, those of its suffix first."""
    suffix = path.suffix.lower()
    ends = [f".{suffix[1]}{suffix[-1]}w", f"{suffix}w", ".wld"] if len(suffix) > 2 else []
    return [found for end in ends if (found := path.with_suffix(end)).exists()]


def belonging(path: Path) -> list[Path]:
    """List what lies beside an image and belongs to it: tiles, masks, overviews, world files."""
    suffix = path.suffix.lower()
    if not suffix:
        return []
    beside = [*(path.with_name(f"{path.name}{end}") for end in BESIDE), *world_files(path), path.with_suffix(".prj")]
    beside += {".dzi": [tiles_directory(path)], ".mrxs": [path.with_suffix("")]}.get(suffix, [])
    return [one for one in beside if one.exists()]


@dataclass
class _LeftOut:
    """What of a directory was left out, by the reason."""

    suffixes: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.reasons.setdefault(reason, []).append(name)

    def __str__(self) -> str:
        parts = []
        if self.suffixes:
            kinds = " ".join(sorted(suffix or "none" for suffix in self.suffixes))
            parts.append(f"{self.suffixes.total()} of other suffixes ({kinds})")
        for reason, names in self.reasons.items():
            shown = ", ".join(sorted(names)[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
            parts.append(f"{len(names)} {reason} ({shown})")
        return ", ".join(parts)


def _walk(
    directory: Path, suffixes: Sequence[str], recursive: bool, by_products: bool, left_out: _LeftOut
) -> Iterator[Path]:
    walked: set[str] = set()  # links may lead in circles

    def lost(error: OSError) -> None:
        left_out.add("that cannot be opened", str(error.filename))

    for folder, below, names in os.walk(directory, followlinks=True, onerror=lost):
        walked.add(os.path.realpath(folder))
        files = []
        for file in (Path(folder, name) for name in sorted(names) if name[0] != "."):
            if file.is_symlink() and not file.exists():
                left_out.add("links that lead nowhere", file.name)
            elif file.suffix.lower() not in suffixes or not file.is_file():
                left_out.suffixes[file.suffix.lower()] += 1
            elif is_preview(file):
                left_out.add("previews of embed", file.name)
            elif not by_products and is_made_beside_an_image(file):
                left_out.add("guides or levels of zoom", file.name)
            else:
                files.append(file)
        own = {tiles_directory(file).name for file in files if file.suffix.lower() == ".dzi"}
        own |= {file.stem for file in files if file.suffix.lower() == ".mrxs"}
        others = [name for name in sorted(below) if name[0] != "." and name not in own]
        if not recursive:
            for name in others:
                left_out.add("folders (`recursive=True` searches them)", name)
        below[:] = [name for name in others if recursive and os.path.realpath(Path(folder, name)) not in walked]
        dicom = [file for file in files if file.suffix.lower() == ".dcm"]
        for file in dicom[1:]:
            left_out.add(f".dcm files, taken for parts of {dicom[0].name}", file.name)
        yield from (file for file in files if file not in dicom[1:])
