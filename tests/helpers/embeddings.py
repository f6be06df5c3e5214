"""Embedding files in miniature: of a slide, and of other projects."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import torch

from largegen.embeddings.convert.convert import import_embeddings
from largegen.embeddings.convert.facts import ImportOptions
from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import read_grid
from largegen.embeddings.options import EmbedOptions

OPTIONS = {field.name for field in fields(EmbedOptions)}


class MeanColour:
    """An encoder whose embedding is the tile's mean and spread of each colour, so that it can be foretold."""

    dim, dtype, fingerprint = 6, torch.float32, "mean"
    spec = SimpleNamespace(name="mean-colour", licence="Apache-2.0")

    def __init__(self, fail_after: int | None = None):
        self.batches: list[int] = []
        self.fail_after = fail_after

    def encode(self, images: np.ndarray) -> np.ndarray:
        if self.fail_after is not None and len(self.batches) > self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(len(images))
        pixels = images.reshape(len(images), -1, 3).astype(np.float32)
        return np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)


def embed(slide, out, encoder=None, **options) -> Path:
    how = {"tile_px": 100, "batch_size": 8} | {k: v for k, v in options.items() if k in OPTIONS}
    place = {"downsample": 1.0, "mag": 20.0} | {k: v for k, v in options.items() if k not in OPTIONS}
    return embed_slide(slide, encoder or MeanColour(), out, EmbedOptions(**how), progress=False, **place)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def save_h5(path: Path, coords_attrs=None, **arrays) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        if coords_attrs:
            file["coords"].attrs.update(coords_attrs)
    return path


def imported(path: Path, slide=None, **given):
    """The grid that `path` is imported to."""
    return read_grid(import_embeddings(path, path.parent / "out", ImportOptions(**given), slide=slide, overwrite=True))


GOOD = {"features": random(4, 768), "coords": np.array([[0, 0], [256, 0], [0, 256], [256, 256]])}


class Tiny:
    """An encoder of `phikon`'s name and dimension that needs no weights, for files with holes."""

    dim, dtype, fingerprint = 768, torch.float32, "none"
    spec = SimpleNamespace(name="phikon", licence="Owkin non-commercial licence")

    def encode(self, images):
        pixels = images.reshape(len(images), -1, 3).astype(np.float32)
        return np.tile(np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1), (1, 128))


def stripped(path: Path, target: Path, *, attributes: bool) -> Path:
    """An embedding file of ours as TRIDENT (with attributes) or CLAM (without) would have written it."""
    with h5py.File(path) as file:
        attrs = dict(file["coords"].attrs) if attributes else {}
        return save_h5(target, attrs, features=file["features"][:], coords=file["coords"][:])
