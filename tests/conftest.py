"""Small slides and scenes that tests make for themselves; nothing here needs the network or `shared`."""

import logging
import os
import signal
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes share the cores. More threads than cores wait for one another, at ten times the cost.
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in a shell's background ignores Ctrl-C, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest

GLASS = 243


@pytest.fixture(autouse=True)
def _logging_is_not_set_up():
    """The command line sets up the package's logging, also in fixtures of a module; each test begins without."""
    log = logging.getLogger("largegen")
    log.setLevel(logging.NOTSET)
    log.handlers.clear()


def tissue_like(width: int, height: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 like H&E: a pink ellipse with purple nuclei in a margin of glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    fibres = np.sin(x / 9 + 2 * np.sin(y / 37)) + np.sin((x + y) / 23)
    stroma = np.stack([225 + 8 * fibres, 150 + 18 * fibres, 190 + 10 * fibres], axis=-1)
    out = np.full((height, width, 3), GLASS, np.float32)
    inside = ((x / width - 0.5) / 0.42) ** 2 + ((y / height - 0.5) / 0.40) ** 2 < 1
    out[inside] = stroma[inside]
    for _ in range(width * height // 900):
        radius = rng.uniform(3, 7)
        cx, cy = int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8))
        if inside[cy, cx]:
            patch = np.s_[cy - 8 : cy + 9, cx - 8 : cx + 9]
            nucleus = (x[patch] - cx) ** 2 + (y[patch] - cy) ** 2 < radius**2
            out[patch][nucleus] = (95, 60, 140)
    return (out + rng.normal(0, 1.5, (height, width, 1))).clip(0, 255).astype(np.uint8)


def save_slide(path: Path, pixels: np.ndarray, mpp: float | None = None, **options) -> Path:
    """Write (h, w, bands) pixels: .tif a tiled pyramid, .svs an Aperio-like one, else a plain image."""
    import pyvips

    image = pyvips.Image.new_from_array(pixels)
    if path.suffix not in (".tif", ".svs"):
        image.write_to_file(str(path), **options)
        return path
    if path.suffix == ".svs":
        size, resolution = (
            f"{image.width}x{image.height}",
            f"|AppMag = {10 / mpp:g}|MPP = {mpp:.4f}" if mpp else "",
        )
        description = f"Aperio Image Library v11.2.1 \r\n{size} (256x256) JPEG/RGB Q=90{resolution}"
        image = image.copy()
        image.set_type(pyvips.GValue.gstr_type, "image-description", description)
    elif mpp:
        image = image.copy(xres=1000 / mpp, yres=1000 / mpp)
    pyramid = {"tile": True, "pyramid": True, "tile_width": 256, "tile_height": 256}
    image.tiffsave(str(path), **{"compression": "jpeg", "Q": 90, **pyramid, **options})
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and reference numbers that stays outside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: real slides and reference numbers are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def make_slide(tmp_path_factory):
    """Factory: `make_slide(width, height, mpp=0.5, name="slide.tif", seed=0)` writes a new H&E-like file."""

    def make(width: int, height: int, mpp: float | None = 0.5, name: str = "slide.tif", seed: int = 0) -> Path:
        return save_slide(tmp_path_factory.mktemp("slides") / name, tissue_like(width, height, seed), mpp)

    return make


@pytest.fixture(scope="session")
def slide_path(make_slide) -> Path:
    """A 1300x1000 px pyramid at 0.5 um/px: tissue in the middle, glass around it. Read only."""
    return make_slide(1300, 1000)


@pytest.fixture(scope="session")
def scene_path(tmp_path_factory) -> Path:
    """A 600x500 px GeoTIFF, R G B NIR, EPSG:26914, 5 m/px; no data in its 100 leftmost columns. Read only."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio writes the scene: install largegen[geo]")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:500, 0:600]
    land = 90 + 40 * np.sin(x / 40) * np.cos(y / 55)
    bands = np.stack([land * 0.9, land * 1.1, land * 0.7, 255 - land]) + rng.normal(0, 3, (4, 500, 600))
    bands = bands.clip(1, 255).astype(np.uint8)
    bands[:, :, :100] = 0
    path = tmp_path_factory.mktemp("scenes") / "scene.tif"
    profile = {
        **{"driver": "GTiff", "width": 600, "height": 500, "count": 4, "dtype": "uint8", "nodata": 0},
        **{"crs": "EPSG:26914", "transform": rasterio.Affine(5, 0, 485900, 0, -5, 5209245)},
        **{"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"},
    }
    with rasterio.open(path, "w", **profile) as scene:
        scene.write(bands)
        scene.build_overviews([2], rasterio.enums.Resampling.average)
    return path
