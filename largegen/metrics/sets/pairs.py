"""Pairs: a generated image and the place in a real one that it was made after, as its provenance or a table says."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largegen.errors import InputError, SlideError, first_line
from largegen.images.provenance import Provenance
from largegen.slides.resolution import SCALE_TOLERANCE, UNKNOWN, Resolution
from largegen.slides.slide import Slide, open_slide

COLUMNS = ("generated", "real", "x", "y", "scale")

PixelSize = tuple[float | None, float | None]  # um per px, metres per px


@dataclass(frozen=True)
class Pair:
    """A generated image and where it lies on a real one."""

    fake: Path
    real: Path
    real_xy: tuple[int, int]  # level-0 px of the real one that the top-left corner of the other lies on
    scale: float  # level-0 px of the real one per px of the other
    width: int  # px of the generated one, from its top-left corner, that lie on the real one
    height: int


def find_pairs(
    fakes: Mapping[Path, Mapping[str, Any]], reals: Sequence[Path], real_source: Resolution = UNKNOWN
) -> tuple[list[Pair], list[str]]:
    """Pair generated images with the real ones that they say they were made after.

    Args:
        fakes: Generated images with what each says of its making, which may be nothing.
        reals: Real images; a reference is known by its name, the file's stem.
        real_source: Resolution that the metadata of the real images lack.

    Returns:
        The pairs, and a line for each image that has none: `<path>: why`.
    """
    named: dict[str, list[Path]] = {}
    for real in map(Path, reals):
        named.setdefault(real.stem.removesuffix(".ome"), []).append(real)
    pairs, left_out = [], []
    for fake, record in fakes.items():
        try:
            pairs.append(_recorded_pair(fake, record, named, real_source))
        except InputError as error:
            left_out.append(f"{fake}: {error}")
    return pairs, left_out


def _recorded_pair(
    fake: Path, record: Mapping[str, Any], named: Mapping[str, Sequence[Path]], real_source: Resolution
) -> Pair:
    if not record:
        raise InputError("does not say what it was made after; name its real image in a `pairs` file")
    made_by = Provenance.read(record)
    if made_by.reference_xy is None:
        raise InputError("a sheet of patches, which as a whole lies nowhere")
    name = made_by.reference or ""
    reals = named.get(name, ())
    if len(reals) != 1:
        raise InputError(f"made after {name}: {len(reals) or 'none'} of the real images have that name")
    with open_slide(reals[0], *real_source) as real:
        scale = _recorded_scale(record, real)
        return _pair(fake, real, made_by.reference_xy, scale, (record["width"], record["height"]))


def _recorded_scale(record: Mapping[str, Any], real: Slide) -> float:
    """Find level-0 px of the reference per px of an image of ours."""
    measured = _ratio((record.get("mpp"), record.get("gsd_m")), _resolution(real))
    made_by = Provenance.read(record)
    recorded = made_by.reference_downsample
    scale = recorded * 2 ** (made_by.level or 0) if recorded else measured
    if scale is None:
        raise InputError(f"does not say at what resolution it shows {real.path}")
    if measured and abs(measured / scale - 1) > SCALE_TOLERANCE:
        raise InputError(
            f"made with {scale:g} px of its reference per px; by its resolution {real.path} has {measured:g}:"
            " another file, or one that needs `real_mpp`"
        )
    return scale


def given_pairs(
    path: Path,
    fake_source: Resolution = UNKNOWN,
    real_source: Resolution = UNKNOWN,
    failed: list[tuple[Path, str]] | None = None,
) -> list[Pair]:
    """Read the pairs of a CSV file with the columns generated, real and perhaps x, y, scale (see Pair).

    Without x and y the two must show the same, and begin at 0,0; without scale it follows from their resolutions, and
    is 1 if neither has one.

    Args:
        path: The CSV file; images are named relative to it.
        fake_source: Resolution that the metadata of the generated images lack.
        real_source: And of the real ones.
        failed: Takes the file and the reason where an image cannot be opened, whose pair is then left out.

    Raises:
        InputError: A line, which is named, is none of a pair.
    """
    path, pairs = Path(path), []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            columns = rows.fieldnames or []
            if not {"generated", "real"} <= set(columns) <= set(COLUMNS) or ("x" in columns) != ("y" in columns):
                raise InputError(f"{path}: its first line must be generated,real or generated,real,x,y[,scale]")
            for row in rows:
                try:
                    pairs.append(_given_pair(path.parent, row, fake_source, real_source))
                except InputError as error:
                    why = f"{path}: line {rows.line_num}: {error}"
                    if failed is None or not isinstance(error, SlideError):
                        raise InputError(why) from error
                    failed.append((path, why))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    if not pairs:
        raise InputError(f"{path}: names no pair")
    return pairs


def _given_pair(folder: Path, row: Mapping[str, str | None], fake_source: Resolution, real_source: Resolution) -> Pair:
    if None in row or not row["generated"] or not row["real"]:
        raise InputError(f"must have {len(row) - (None in row)} values, a generated and a real image among them")
    x, y, scale = (_number(row, name) for name in ("x", "y", "scale"))
    if (x is None) != (y is None):
        raise InputError("give both x and y, or neither")
    with (
        open_slide(folder / row["generated"], *fake_source) as fake,
        open_slide(folder / row["real"], *real_source) as real,
    ):
        scale = scale or _given_scale(fake, real)
        reach = fake.width * scale, fake.height * scale
        if x is None and not np.allclose(reach, (real.width, real.height), rtol=SCALE_TOLERANCE):
            raise InputError(
                f"{fake.path} covers {reach[0]:.0f}x{reach[1]:.0f} px of {real.width}x{real.height}; give x and y"
            )
        return _pair(fake.path, real, (int(x or 0), int(y or 0)), scale, (fake.width, fake.height))


def _number(row: Mapping[str, str | None], name: str) -> float | None:
    """Parse a value, None where there is none: a place must be a whole number and not negative, a scale positive."""
    text, is_scale = (row.get(name) or "").strip(), name == "scale"
    try:
        value = (float if is_scale else int)(text) if text else None
    except ValueError:
        value = -1
    if value is not None and not (0 < value < np.inf if is_scale else value >= 0):
        raise InputError(f"{name} {text}: must be {'a number over 0' if is_scale else 'a whole number, 0 or more'}")
    return value


def _given_scale(fake: Slide, real: Slide) -> float:
    resolutions = _resolution(fake), _resolution(real)
    scale = _ratio(*resolutions)
    if scale is None and resolutions != ((None, None), (None, None)):
        raise InputError(f"the resolutions of {fake.path} and {real.path} are not both known; add a column scale")
    return scale or 1.0


def _resolution(slide: Slide) -> PixelSize:
    return slide.mpp, slide.gsd_m


def _ratio(fake: PixelSize, real: PixelSize) -> float | None:
    """Return how many px of the real image one of the other is long, if both resolutions are known."""
    return next((f / r for f, r in zip(fake, real, strict=True) if f and r), None)


def _pair(fake: Path, real: Slide, xy: Sequence[int], scale: float, size: tuple[int, int]) -> Pair:
    """Make the pair, without what lies past the right and lower edge of the real image."""
    ends = zip(size, (real.width, real.height), xy, strict=True)
    width, height = (min(side, int((end - start) / scale + 1e-6)) for side, end, start in ends)
    if min(width, height) < 1:
        raise InputError(f"begins at {xy[0]},{xy[1]}, outside {real.path}, {real.width}x{real.height} px")
    return Pair(Path(fake), real.path, (int(xy[0]), int(xy[1])), scale, width, height)
