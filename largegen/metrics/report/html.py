"""The HTML page of an evaluation: one file with its images inside, no script and no request to anywhere."""

import base64
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from largegen.metrics.catalogue import explanations
from largegen.metrics.report.table import number
from largegen.metrics.results import Evaluation, Figure
from largegen.runtime.files import atomic
from largegen.version import __version__

WEBP_QUALITY = 88  # of the WebP thumbnails: about 20 kB per 256 px crop of tissue
MAX_THUMBNAIL_PX = 1024  # thumbnails are shrunk to it
MAX_LISTED_PATHS = 12  # paths of a set that the page lists; the JSON has all


@dataclass(frozen=True)
class Thumbnail:
    """One image of a sheet. The page keeps a lossy copy, at most 1024 px long."""

    pixels: np.ndarray  # (H, W, 3) uint8
    label: str = ""  # shown under it: a distance, a file's name
    link: str = ""  # address of its place in a viewer


@dataclass(frozen=True)
class SheetRow:
    """Images that belong together, in order; they wrap where the page is narrow."""

    title: str  # "Real", "Generated crop 3 and the nearest real ones"
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Sheet:
    """Images to look at, one block of the page.

    A contact sheet has two rows, "Real" and "Generated", `beside` one another. A look at memorisation has a row for
    each generated crop: the crop first, then its nearest real ones, labelled with their distances. Whole images
    have a row each: the guide first, then the image, `shown_px` 320 or so.
    """

    title: str
    caption: str  # how the images were chosen and what to look for
    level: str  # the resolution, as in LevelFigures
    rows: tuple[SheetRow, ...]
    beside: bool = False  # rows stand side by side where the page is wide enough, else one under another
    shown_px: int = 112  # least width of a thumbnail on the page, CSS px; opened, it fills the window


def thumbnails(
    images: Sequence[np.ndarray] | np.ndarray, labels: Sequence[str] = (), links: Sequence[str] = ()
) -> tuple[Thumbnail, ...]:
    """Make thumbnails of images (H, W, 3) uint8, or of one (N, H, W, 3) array; labels and links: one each, or none."""
    none = [""] * len(images)
    return tuple(Thumbnail(*each) for each in zip(images, labels or none, links or none, strict=True))


def write_report(path: Path, evaluation: Evaluation, sheets: Sequence[Sheet], job: str = "") -> None:
    """Write the page to `path`, atomically; the same input gives the same page, the date apart."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"typeset": typeset, "data_uri": data_uri}
    environment.globals |= {"number": number, "chart": Chart, "short_name": short_name}
    page = environment.get_template("report.html").render(
        evaluation=evaluation,
        job=job,
        figures=[figure for level in evaluation.levels for figure in level.figures],
        overview=overview(evaluation),
        sheets=sheets,
        sides=(("Real", evaluation.real), ("Generated", evaluation.fake)),
        sets=side_by_side(evaluation.real, evaluation.fake),
        settings=list(flat(evaluation.settings)),
        explanations=explanations(evaluation),
        json=json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False, default=str),
        css=(here / "report.css").read_text(encoding="utf-8"),
        date=datetime.now().astimezone(),
        version=__version__,
    )
    with atomic(path) as temporary:
        # A file name that is no Unicode text must not cost the page.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def typeset(text: str) -> str:
    """Typeset a number: a real minus sign, and infinity's own."""
    return text.replace("-", "−").replace("inf", "∞")


def data_uri(thumbnail: Thumbnail) -> str:
    """Encode the image as a `data:` URI, WebP, with its colours kept sharp."""
    from PIL import Image

    image = Image.fromarray(thumbnail.pixels)
    image.thumbnail((MAX_THUMBNAIL_PX, MAX_THUMBNAIL_PX))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=WEBP_QUALITY, use_sharp_yuv=True)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def short_name(side: dict[str, Any]) -> str:
    """Name a set: its first path's last part, and how many more there are."""
    paths = side.get("paths") or ["unnamed set"]
    first = Path(str(paths[0]))
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return (first.name or str(first)) + more


def overview(evaluation: Evaluation) -> list[tuple[str, list[Figure | None]]]:
    """List each metric's name and its figure at every level, None where it has none."""
    by_level = [{figure.name: figure for figure in level.figures} for level in evaluation.levels]
    names = dict.fromkeys(name for figures in by_level for name in figures)
    return [(name, [figures.get(name) for figures in by_level]) for name in names]


def side_by_side(real: dict[str, Any], fake: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Put the two sets into rows: what, of the real one, of the generated one."""
    real_rows, fake_rows = dict(flat(real)), dict(flat(fake))
    return [(name, real_rows.get(name, ""), fake_rows.get(name, "")) for name in real_rows | fake_rows]


def flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested settings to (dotted name, text) rows; long lists are cut."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
            yield from flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, list | tuple):
            shown = [plain(item) for item in value[:MAX_LISTED_PATHS]]
            more = (
                [f"and {len(value) - MAX_LISTED_PATHS} more, in the JSON below"]
                if len(value) > MAX_LISTED_PATHS
                else []
            )
            yield name, "\n".join(shown + more) or "none"
        else:
            yield name, plain(value)


def plain(value: Any) -> str:
    """Write one setting's value for people."""
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


class Chart:
    """Where a figure's numbers stand on an axis of their own, in the px of an SVG image.

    The axis begins at 0, which is a perfect distance; it ends at 1 for what cannot be more, and is centred on 1 for
    what should be 1.
    """

    width, height, margin = 216, 44, 8

    def __init__(self, figure: Figure):
        known = [figure.value, *(figure.interval or ()), figure.floor, figure.infinity]
        values = [value for value in known if value is not None and math.isfinite(value)]
        self.start = 1.0 if figure.better == "one" else 0.0  # where the bar begins
        if figure.better == "one":
            reach = _round_up(max((abs(value - 1) for value in values), default=1))
            self.low, self.high = max(0.0, 1 - reach), 1 + reach
        else:
            self.high = _round_up(max(values, default=1))
            lowest = min(values, default=0)
            self.low = -_round_up(-lowest) if lowest < -self.high / 20 else 0.0  # an unbiased distance may be under 0
            if figure.better == "higher" and self.high < 1:
                self.high = 1.0

    def x(self, value: float) -> str:
        """Find the place of a value, in px; beyond the axis it is at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{self.margin + share * (self.width - 2 * self.margin):.1f}"

    def bar(self, value: float) -> tuple[str, str]:
        """Find left end and width of the bar from the axis's start to the value."""
        left, right = sorted((float(self.x(self.start)), float(self.x(value))))
        return f"{left:.1f}", f"{right - left:.1f}"

    @property
    def ends(self) -> tuple[str, str]:
        """The axis's lower and upper end."""
        return f"{self.low:g}", f"{self.high:g}"


def _round_up(value: float) -> float:
    """Find the next number of one digit, or 1.5 times a power of ten; 1 for what is not positive."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return float(f"{next(step for step in steps if step * power >= value * (1 - 1e-9)) * power:.3g}")
