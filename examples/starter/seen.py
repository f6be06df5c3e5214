"""What the images of a split show, tile by tile: their embeddings, their labels, and shares measured in the pixels."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from captions import measure
from maps import Region
from rasterio.transform import from_origin
from train import SCALES

from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.options import EmbedOptions
from largegen.models.encoder import Encoder
from largegen.slides.slide import open_slide
from largegen.training.grid_parts import grid_parts
from largegen.training.grids import TrainingGrid

TILE_PX, OVERLAP_PX = 256, 128
LOOK_PX = 4  # from one pixel to the next that is measured
LIGHT = {"tissue": (244, 243, 244), "aerial": (255, 255, 255)}  # of empty glass and of no data
NO_DATA = 250  # grey level above which a scene's pixel is of no data


@dataclass(frozen=True)
class SeenGrid:
    """A grid of tiles that lie side by side, and what their pixels show."""

    grid: TrainingGrid  # its label is the number in `known_labels` of all grids
    label: str  # the organ, or the kind of place
    subject: str  # label and finding
    shares: dict[str, np.ndarray]  # (rows, cols) each, see captions.py


def see(kind: str, regions: list[Region], encoder: Encoder, folder: Path, data: Path) -> list[SeenGrid]:
    """Embed the images of one kind and measure their tiles: four grids an image, half a tile apart."""
    about = subjects_of(data)
    images = {region.path.stem: region.read().movedim(0, -1).numpy() for region in regions}
    regions = [region for region in regions if min(images[region.path.stem].shape[:2]) >= TILE_PX]
    files = [embed(kind, region, encoder, folder) for region in regions]
    found = []
    for part in grid_parts(files, None):
        name = part.file.settings.source_name
        grid, image, (label, finding) = part.grid(0, 0), images[name], about[name]
        rows, cols = grid.tissue.shape
        corners = [part.xy(row, col) for row in range(rows) for col in range(cols)]
        tiles = np.stack([image[y : y + TILE_PX : LOOK_PX, x : x + TILE_PX : LOOK_PX] for x, y in corners])
        shares = {share: values.reshape(rows, cols) for share, values in measure(kind, tiles).items()}
        no_data = ((tiles > NO_DATA).all(-1).mean((1, 2)) > 0.9).reshape(rows, cols)
        tissue = shares["glass"] == 0 if kind == "tissue" else ~no_data
        grid = replace(grid, tissue=tissue, name=name)
        found.append(SeenGrid(grid, label, ", ".join(filter(None, (label, finding))), shares))
    labels = known_labels(found)
    return [replace(one, grid=replace(one.grid, label=labels.index(one.label))) for one in found]


def known_labels(seen: list[SeenGrid]) -> list[str]:
    return sorted({one.label for one in seen})


def embed(kind: str, region: Region, encoder: Encoder, folder: Path) -> EmbeddingFile:
    """Embed an image as `largegen embed --no-tissue-filter --overlap 128` does; a file that is there is kept.

    The tissue filter would take much of the fat for glass, for in a region without glass Otsu's threshold lies in it.
    """
    path = region.path if kind == "tissue" else as_scene(region, folder / "scenes")
    options = EmbedOptions(TILE_PX, overlap_px=OVERLAP_PX, tissue_filter=False)
    with open_slide(path, source_mpp=SCALES[kind].get("mpp")) as slide:
        file = EmbeddingFile(embed_slide(slide, encoder, folder, options, downsample=1.0))
    print(f"{file.path.stem}: {file.count} tiles", flush=True)
    return file


def as_scene(region: Region, folder: Path) -> Path:
    """Write an image as a GeoTIFF, for that says the size of its pixels; its place on Earth is invented."""
    path, pixels = folder / f"{region.path.stem}.tif", region.read().numpy()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        gsd = SCALES[region.kind]["gsd_m"]
        place = {"crs": "EPSG:32645", "transform": from_origin(0, 0, gsd, gsd)}
        form = {"driver": "GTiff", "count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
        with rasterio.open(path, "w", **form, **place, tiled=True) as file:
            file.write(pixels)
    return path


def subjects_of(data: Path) -> dict[str, tuple[str, str]]:
    """By file name: the organ or kind of place, which is the label, and the finding."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    return {name: _subject(name, row) for name, row in rows.items()}


def _subject(name: str, row: dict[str, str]) -> tuple[str, str]:
    if "forest" in name:
        return "forest", row["organ_or_place"].partition(", ")[2]
    if "town" in name:
        return "town", ""
    return row["organ_or_place"], row["diagnosis_or_detail"].partition(" (")[0]
