"""The images of a real and of a generated set, and the resolutions at which the two can be compared."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from largegen.embeddings.source import slide_path_of
from largegen.errors import InputError, SlideError
from largegen.slides.find import IMAGE_SUFFIXES, find_files
from largegen.slides.resolution import SCALE_TOLERANCE, UNKNOWN, Resolution, Scale, parameter_for
from largegen.slides.slide import Slide, open_slide

SCAN_THREADS = 2  # threads that read headers
SCAN_BATCH = 256  # files handed to them at a time
Failed = list[tuple[Path, str]]  # images that were left out, and why


@dataclass(frozen=True, slots=True)
class SetImage:
    """An image at the resolution at which it is compared."""

    path: Path
    downsample: float  # level-0 px per px at the working resolution
    width: int  # px at the working resolution
    height: int
    lossy: bool  # JPEG or JPEG 2000 somewhere in its pixels' storage
    tissue: bool  # whether crops are drawn from its tissue (of a scene: data) only
    source: Resolution = UNKNOWN  # given by the user
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)  # what it says of its making; else empty

    def open(self) -> Slide:
        """Open the file, its pixels unread: damage to them shows when they are read."""
        return _open(self.path, self.source)


@dataclass(frozen=True)
class ResolutionGroup:
    """The images of both sets at one resolution."""

    name: str  # "20x", "0.6 m/px", or "pixels" where no resolution is known
    real: tuple[SetImage, ...]
    fake: tuple[SetImage, ...]


class _Found(NamedTuple):
    """What an image's header says."""

    path: Path
    width: int  # level-0 px
    height: int
    scale: Scale
    lossy: bool
    tissue: bool
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class _Set:
    """One side of the comparison."""

    name: str  # "real" or "fake", as the flags call it
    found: tuple[_Found, ...]
    source: Resolution

    @property
    def unit(self) -> str:
        return self.found[0].scale.unit

    def check_units(self) -> None:
        """Raise InputError unless all images have a resolution of the same kind, or none has."""
        other = next((found for found in self.found if found.scale.unit != self.unit), None)
        if other is None:
            return
        unknown, known = (self.found[0], other) if self.unit == "px" else (other, self.found[0])
        if unknown.scale.unit != "px":
            raise _two_kinds(unknown, known)
        raise self.unknown(unknown, f"but {known.path} has {known.scale}", known.scale.unit)

    def unknown(self, found: _Found, but: str, unit: str) -> InputError:
        """Make the error of an image whose resolution is needed, in `unit`, and not known."""
        names = f"`{self.name}_gsd`" if unit == "m" else f"`{self.name}_mag` or `{self.name}_mpp`"
        return InputError(f"{found.path}: no resolution in its metadata, {but}; give {names}")

    def at(self, scale: Scale) -> tuple[SetImage, ...]:
        """Take all images at one resolution. Raises InputError, naming the file, for one that would be enlarged."""
        for found in self.found:
            if found.scale.size > scale.size * (1 + SCALE_TOLERANCE):
                raise InputError(
                    f"{found.path}: has {found.scale}, too coarse for {scale}, and enlarged pixels would spoil the "
                    f"distance; compare at {parameter_for(found.scale)} or coarser, or give finer {self.name} images"
                )
        return tuple(_image(found, scale, self.source) for found in self.found)


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """Find the image files that `paths` stand for, each once.

    A file stands for itself, an embedding file (.h5) for its slide, a directory for all files of known suffixes in it
    and below, sorted.

    Raises:
        InputError: A path does not exist, or a directory holds no images.
    """
    found = find_files(paths, what="images", recursive=True)
    return list(dict.fromkeys(slide_path_of(path) if path.suffix.lower() == ".h5" else path for path in found))


def resolution_groups(
    real: Sequence[Path],
    fake: Sequence[Path],
    target: Resolution = UNKNOWN,
    sources: tuple[Resolution, Resolution] = (UNKNOWN, UNKNOWN),
    failed: Failed | None = None,
    tissue: bool | None = None,
) -> tuple[ResolutionGroup, ...]:
    """Group both sets by the resolutions to compare them at, the finest first.

    With a target, all images are read at it. Without one the fake images are read as they are, those of another
    resolution making another group, and the real ones at the fake ones' resolution. Images whose resolution is nowhere
    known are compared pixel by pixel, if none on the other side has one.

    Args:
        real: Files; none, where saved statistics stand for them.
        fake: Files.
        target: Resolution to compare at.
        sources: Resolutions that the metadata of (real, fake) lack.
        failed: Takes what cannot be opened, which is then left out.
        tissue: Whether crops are of tissue only; by default those of slides are, and those of the images that they are
            compared with.

    Raises:
        InputError: What cannot be compared: another kind of resolution, or pixels to be enlarged.
        SlideError: A file cannot be opened, and `failed` does not take it.
    """
    real_set, fake_set = (
        _Set(name, _scan(name, paths, source, failed) if paths or name == "fake" else (), source)
        for name, paths, source in zip(("real", "fake"), (real, fake), sources, strict=True)
    )
    sets = [one for one in (real_set, fake_set) if one.found]
    for one in sets:
        one.check_units()
    target.check()
    wanted = target.scale()
    if wanted is not None:
        for one in sets:
            _check_unit(one, wanted)
        return (_group(wanted, real_set, fake_set, tissue),)
    for one, other in (sets, sets[::-1]) if real_set.found else ():
        if one.unit == "px" != other.unit:
            known = other.found[0]
            raise one.unknown(one.found[0], f"but {known.path} has {known.scale}", known.scale.unit)
    if real_set.found and real_set.unit != fake_set.unit:
        raise _two_kinds(real_set.found[0], fake_set.found[0])
    groups = []
    for scale in _scales(fake_set.found):
        same = tuple(
            found for found in fake_set.found if scale.size <= found.scale.size <= scale.size * (1 + SCALE_TOLERANCE)
        )
        groups.append(_group(scale, real_set, replace(fake_set, found=same), tissue))
    return tuple(groups)


def _group(scale: Scale, real_set: _Set, fake_set: _Set, tissue: bool | None) -> ResolutionGroup:
    """Take both sets at one resolution, by one rule: where real crops are of tissue, those of generated images are."""
    real, fake = real_set.at(scale), fake_set.at(scale)
    if tissue is False:
        real = tuple(replace(image, tissue=False) for image in real)
    if tissue is None:
        tissue = scale.unit != "m" and any(image.tissue for image in real)  # generated scenes have data everywhere
    return ResolutionGroup(scale.level_name, real, tuple(replace(image, tissue=tissue) for image in fake))


def _check_unit(one: _Set, wanted: Scale) -> None:
    """Raise InputError unless the images of a set have a resolution of the wanted kind."""
    if one.unit == "px":
        raise one.unknown(one.found[0], f"so it cannot be read at {parameter_for(wanted)}", wanted.unit)
    if one.unit != wanted.unit:
        names = "`gsd`" if one.unit == "m" else "`mag` or `mpp`"
        first = one.found[0]
        raise InputError(f"{first.path}: has {first.scale} and cannot be read at {parameter_for(wanted)}; use {names}")


def _two_kinds(one: _Found, other: _Found) -> InputError:
    return InputError(
        f"{one.path}: has {one.scale}, but {other.path} has {other.scale}; slides and scenes cannot be compared"
    )


def _scales(found: Sequence[_Found]) -> list[Scale]:
    """List the resolutions that are there, the finest first; of those that count as the same, the finest."""
    scales: list[Scale] = []
    for scale in sorted({one.scale for one in found}):
        if not scales or scale.size > scales[-1].size * (1 + SCALE_TOLERANCE):
            scales.append(scale)
    return scales


def _image(found: _Found, scale: Scale, source: Resolution) -> SetImage:
    downsample = scale.size / found.scale.size
    if abs(downsample - 1) <= SCALE_TOLERANCE:
        downsample = 1.0  # its own pixels, untouched by a filter
    width, height = (max(1, int(size / downsample + 1e-6)) for size in (found.width, found.height))
    return SetImage(found.path, downsample, width, height, found.lossy, found.tissue, source, found.provenance)


def _open(path: Path, source: Resolution) -> Slide:
    return open_slide(path, *source, check=path.suffix.lower() not in IMAGE_SUFFIXES)


def _scan(name: str, paths: Sequence[Path], source: Resolution, failed: Failed | None) -> tuple[_Found, ...]:
    """Read the headers, in order. Raises SlideError for a bad file unless `failed` takes it."""

    def look(path: Path) -> _Found | SlideError:
        try:
            with _open(path, source) as slide:
                return _look(slide, source)
        except SlideError as error:
            return error

    found: list[_Found] = []
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        for start in range(0, len(paths), SCAN_BATCH):
            part = paths[start : start + SCAN_BATCH]
            for path, one in zip(part, pool.map(look, part), strict=True):
                if isinstance(one, _Found):
                    found.append(one)
                elif failed is None:
                    raise one
                else:
                    failed.append((path, str(one)))
    if not found:
        why = f": {failed[-1][1]}" if failed else ""
        raise InputError(f"no image of the {name} set can be read{why}")
    return tuple(found)


def _look(slide: Slide, source: Resolution) -> _Found:
    scale = Scale("m", slide.gsd_m) if source.gsd and slide.gsd_m else slide.scale
    # A generated image is judged whole, its glass too; so is a plain image, which somebody has cut out.
    tissue = slide.kind != "image" and not slide.provenance
    size = slide.width, slide.height
    return _Found(Path(slide.path), *size, scale, slide.lossy, tissue, slide.provenance)


def are_patches(images: Sequence[SetImage], size_px: int) -> bool:
    """Tell whether the images are themselves crops: all are of their size."""
    return all((image.width, image.height) == (size_px, size_px) for image in images)
