"""What is known of a picture, as rows of text under titles: the file itself, and what an image says of its making."""

from typing import Any

from largegen.metrics.report.html import flat, plain
from largegen.slides.resolution import Scale
from largegen.view.sources import Opened

Facts = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

MADE = {  # of a provenance, in this order, and how people call them
    "warning": "warning",
    "description": "what",
    "command": "command",
    "model": "model",
    "model_licence": "model's licence",
    "encoder": "encoder",
    "encoder_licence": "encoder's licence",
    "licence": "licence of the image",
    "reference": "reference",
    "reference_xy": "at, on the reference (x, y)",
    "reference_downsample": "reference's px per px",
    "unlike_tiles": "tiles unlike the training",
    "seed": "seed",
    "precision": "precision",
}
GROUPS = {
    "sampling": "Sampling",
    "zoom": "Zoom",
    "imagined": "Imagined",
    "upscale": "Enlarged",
    "edit": "Edited",
    "versions": "Versions",
}
SHOWN_AS_THE_FILE = ("width", "height", "mpp", "mpp_from", "gsd_m", "generated_by", "crs", "transform", "job")
MOST_CHARACTERS = 4000  # of one value: a hostile one must not fill the page


def facts_of(opened: Opened) -> Facts:
    """List what is known of a file."""
    return (("Image", tuple(_of_file(opened))), *_of_provenance(opened.provenance), *_of_embeddings(opened))


def length(pixels: float, scale: Scale) -> str:
    """Write a length for people: 2048 px of 0.5 um are 1.02 mm."""
    value, unit = pixels * scale.size, scale.unit
    if unit == "px":
        return f"{pixels:.0f} px"
    larger = {"um": "mm", "m": "km"}[unit]
    return f"{value / 1000:.3g} {larger}" if value >= 1000 else f"{value:.3g} {'µm' if unit == 'um' else unit}"


def _of_file(opened: Opened) -> list[tuple[str, str]]:
    slide = opened.slide
    rows = [("file", opened.path.name), ("size", f"{opened.width} × {opened.height} px")]
    if opened.scale.unit != "px":
        rows.append(("extent", f"{length(opened.width, opened.scale)} × {length(opened.height, opened.scale)}"))
    rows.append(("resolution", str(opened.scale).replace("um", "µm")))
    if slide is None:
        return [*rows, ("slide", "not there: the embeddings alone are shown")]
    rows.append(("kind", "generated image" if slide.provenance else slide.kind))
    rows.append(("levels", ", ".join(f"{width} × {height}" for width, height in slide.levels)))
    if slide.georeference is not None:
        rows.append(("on Earth", slide.georeference.crs.partition("[")[0] or "by its transform"))
    return [*rows, ("read by", slide.reader)]


def _of_provenance(record: dict[str, Any]) -> Facts:
    if not record:
        return ()
    rest = {name: value for name, value in record.items() if name not in (*MADE, *GROUPS, *SHOWN_AS_THE_FILE)}
    made = tuple((name, _text(record[key])) for key, name in MADE.items() if record.get(key) is not None)
    groups = [(title, record.get(key)) for key, title in GROUPS.items()]
    groups.append(("More", rest))
    return (
        ("Made by", made),
        *((title, _rows(value)) for title, value in groups if value),
    )


def _rows(value: Any) -> tuple[tuple[str, str], ...]:
    rows = flat(value) if isinstance(value, dict) else [("", plain(value))]
    return tuple((name.replace("_", " "), _text(text)) for name, text in rows)


def _of_embeddings(opened: Opened) -> Facts:
    grid = opened.grid
    if grid is None:
        return ()
    rows, cols = grid.tissue.shape
    tiles = f"{int(grid.tissue.sum())} of {rows * cols}, {cols} × {rows}"
    side = f"{grid.tile_px} px at {grid.downsample:g} level-0 px each"
    named = [("encoder", grid.encoder), ("licence", grid.licence), ("tiles", tiles), ("tile", side)]
    return (("Embeddings", tuple((name, _text(value)) for name, value in named)),)


def _text(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else plain(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text)} characters)"
