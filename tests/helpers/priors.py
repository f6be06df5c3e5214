"""Grids of embeddings in miniature, as files, and priors with random weights."""

import json
from pathlib import Path

import numpy as np
import torch

from largegen.embeddings.file import write_embeddings
from largegen.embeddings.settings import EmbeddingSettings
from largegen.models.grid_prior import GridPrior
from largegen.models.info import ModelInfo
from largegen.models.storage import save_network

DIM, TILE_PX = 16, 64


def save_grid(path: Path, features: np.ndarray, tissue: np.ndarray | None = None, **changes) -> Path:
    """Write an embedding file of a grid (rows, cols, D) that is of no slide."""
    rows, cols, dim = features.shape
    tissue = np.ones((rows, cols), bool) if tissue is None else tissue
    coords = np.argwhere(tissue)[:, ::-1] * TILE_PX
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = settings_of(rows, cols, dim, path.stem, **changes)
    write_embeddings(path, settings, coords, features[tissue], np.full(dim, 5.0), {})
    return path


def settings_of(rows: int, cols: int, dim: int, name: str, /, **changes) -> EmbeddingSettings:
    """What an embedding file of a made-up slide says of itself."""
    values = {
        **{"source_name": name, "source_path": f"{name}.svs", "source_kind": "slide", "source_bytes": 1},
        **{"source_width": cols * TILE_PX, "source_height": rows * TILE_PX, "source_background": (240, 241, 242)},
        **{"mpp": 0.5, "gsd_m": None, "crs": None, "transform": None, "downsample": 1.0, "tile_px": TILE_PX},
        **{"overlap_px": 0, "region": (0, 0, rows, cols), "tissue_filter": "none", "encoder": "an-encoder"},
        **{"encoder_fingerprint": "abc", "encoder_licence": "CC-BY-4.0", "dim": dim, "precision": "float32"},
    }
    return EmbeddingSettings(**values | changes)


def two_kinds(rows: int, cols: int, kind: int, seed: int = 0) -> np.ndarray:
    """Draw a grid of embeddings whose first number is +3 or -3 by its kind, and tells no kind elsewhere."""
    features = np.random.default_rng(seed).normal(size=(rows, cols, DIM)).astype(np.float32)
    features[..., 0] = (features[..., 0] * 0.3) + (3 if kind else -3)
    return features


def random_prior(seed: int = 0, **changes) -> GridPrior:
    """Make a small prior with random weights in every layer."""
    torch.manual_seed(seed)
    info = ModelInfo("a-prior", encoder="an-encoder", encoder_fingerprint="abc", encoder_licence="CC-BY-4.0")
    info = {**info.as_dict(), "licence": "CC0-1.0", "embedding_dim": DIM, "tile_px": TILE_PX}
    form = {"embedding_dim": DIM, "components": 8, "window": 8, "width": 64, "layers": 2, "heads": 1}
    about = {"scales": [0.5], "labels": ["kidney", "liver"], "info": info, "background_rgb": (240, 241, 242)}
    prior = GridPrior(**form | about | changes)
    for parameter in prior.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    prior.fit(torch.from_numpy(two_kinds(20, 20, 0)).flatten(0, 1), torch.full((DIM,), 5.0))
    return prior.eval().requires_grad_(False)


def save_prior(directory: Path, **changes) -> Path:
    """Write the directory of a prior with random weights."""
    save_network(random_prior(**changes), directory, None)
    return directory


def imagined(settings: EmbeddingSettings) -> dict:
    """What a file says that it was sampled from."""
    return json.loads(settings.imagined)
