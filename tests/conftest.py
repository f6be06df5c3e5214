"""Fixtures that many tests share: slides and scenes made on the spot; none but `shared` needs anything from outside."""

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
from helpers import ROOT
from helpers.slides import save_slide, tissue_like


@pytest.fixture(autouse=True)
def _logging_is_not_set_up():
    """The command line sets up the package's logging, also in fixtures of a module; each test begins without."""
    log = logging.getLogger("largegen")
    log.setLevel(logging.NOTSET)
    log.handlers.clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real slides and reference numbers that stays outside the repository."""
    folder = ROOT.parent / "shared"
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
def model(tmp_path_factory):
    """A tiny model of one magnification, tiles of 64 px, on the CPU. Read only."""
    from helpers.models import save_encoder, save_model

    from largegen import load_model

    folder = tmp_path_factory.mktemp("tiny")
    return load_model(save_model(folder / "model", save_encoder(folder / "encoder")), "cpu", "fp32")


@pytest.fixture(scope="session")
def grid(model):
    """Random embeddings of 3x4 tiles for `model`. Read only."""
    from helpers.models import flat_grid

    return flat_grid(model, 3, 4)


@pytest.fixture(scope="session")
def zoom_model_path(tmp_path_factory) -> Path:
    """The directory of a tiny model of four magnifications. Read only."""
    from helpers.models import save_encoder, save_model

    folder = tmp_path_factory.mktemp("tiny")
    return save_model(folder / "model", save_encoder(folder / "encoder"), levels=4)


@pytest.fixture(scope="session")
def zoom_model(zoom_model_path):
    """The model of `zoom_model_path` on the CPU. Read only."""
    from largegen import load_model

    return load_model(zoom_model_path, "cpu", "fp32")


@pytest.fixture(scope="session")
def scene_path(tmp_path_factory) -> Path:
    """A 600x500 px GeoTIFF, R G B NIR, EPSG:26914, 5 m/px; no data in its 100 leftmost columns. Read only."""
    import rasterio

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
