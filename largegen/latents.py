"""Latents of a slide's tiles, computed once and kept in an HDF5 cache for the training of a denoiser."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from largegen.autoencoder import Autoencoder
from largegen.dataset import to_network, turn
from largegen.embedding_file import EmbeddingFile
from largegen.errors import EmbeddingFileError
from largegen.runtime import lock, remove, writing
from largegen.slide import Slide, open_slide

# Ways to lay a tile (arguments of dataset.turn): as it is; turned by half; and flipped; and by quarters.
TURNS = {1: (0,), 2: (0, 2), 4: (0, 2, 4, 6), 8: (0, 1, 2, 3, 4, 5, 6, 7)}
log = logging.getLogger(__name__)


def find_slide(file: EmbeddingFile, slides: Path | None = None) -> Slide:
    """Open the slide that an embedding file was made from: where it was, or in the directory `slides`.

    Raises EmbeddingFileError where it is not found or has another size than the file says.
    """
    settings = file.settings
    path = Path(settings.source_path)
    if slides is not None:
        path = slides if slides.is_file() else slides / path.name
    if not path.exists():
        raise EmbeddingFileError(f"{file.path}: its slide {path} is not there; say where with --slides DIR")
    slide = open_slide(path)
    if (slide.width, slide.height) != (settings.source_width, settings.source_height):
        raise EmbeddingFileError(
            f"{file.path}: made from a slide of {settings.source_width}x{settings.source_height} px, but {path}"
            f" has {slide.width}x{slide.height} px; embed it again"
        )
    return slide


def latents_path(file: EmbeddingFile, autoencoder_fingerprint: str, directory: Path, turns: int) -> Path:
    """The cache of an embedding file's tiles: `<directory>/<slide>.<hash of all it depends on>.h5`."""
    key = json.dumps([file.settings.as_dict(), autoencoder_fingerprint, turns], sort_keys=True, default=str)
    digest = hashlib.sha256(key.encode() + file.coords().tobytes()).hexdigest()[:12]
    return Path(directory) / f"{file.settings.source_name}.{digest}.h5"


def cache_latents(
    file: EmbeddingFile, slide: Slide, autoencoder: Autoencoder, path: Path, *, turns: int = 4, batch_size: int = 16
) -> None:
    """Encode every tile of an embedding file, `turns` ways, into the HDF5 file `path`.

    /latents is (N, turns, C, h, w) float16, normalised, in the order of the embedding file; turns: 1, 2, 4 or 8, see
    TURNS. A complete cache is kept, an interrupted one is continued.
    """
    import h5py

    coords, settings = file.coords(), file.settings
    side = settings.tile_px // autoencoder.factor
    shape = (len(coords), turns, autoencoder.channels, side, side)
    with lock(path), writing(path):
        _discard_damaged(path)
        with h5py.File(path, "a") as cache:
            if "latents" not in cache:
                cache.create_dataset("latents", shape, np.float16, chunks=(1, *shape[1:]))
                cache.attrs["done"] = 0
            done = int(cache.attrs["done"])
            tiles_at_once = max(1, batch_size // turns)
            bar = tqdm(total=len(coords), initial=done, desc=f"latents {slide.name}", unit="tile", disable=None)
            with bar:
                for start in range(done, len(coords), tiles_at_once):
                    rows = coords[start : start + tiles_at_once]
                    tiles = [
                        slide.read(x, y, settings.tile_px, settings.tile_px, settings.downsample)
                        for x, y in rows.tolist()
                    ]
                    turned = np.stack([turn(tile, k) for tile in tiles for k in TURNS[turns]])
                    latents = autoencoder.encode(to_network(turned)).cpu().numpy()
                    cache["latents"][start : start + len(rows)] = latents.reshape(-1, *shape[1:])
                    cache.attrs["done"] = start + len(rows)
                    cache.flush()  # what is done survives a kill
                    bar.update(len(rows))


def _discard_damaged(path: Path) -> None:
    """Delete a cache that was killed in the middle of a write and cannot be opened any more."""
    import h5py

    if path.exists():
        try:
            with h5py.File(path, "r") as cache:
                cache["latents"].shape, cache.attrs["done"]
        except (OSError, KeyError):
            log.warning("%s: damaged by a kill; computed anew", path)
            remove(path)
