"""Latents of a slide's regions, computed once and kept in NumPy files for the training of a denoiser."""

import copy
import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.source import find_slide
from largegen.models.autoencoder import Autoencoder
from largegen.models.pixels import to_network
from largegen.runtime.files import write_errors
from largegen.runtime.lock import lock
from largegen.slides.slide import Slide
from largegen.training.regions import EmbeddingGrids, TrainingRegions, find_regions
from largegen.training.sampler import orient

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

Sample = Callable[[Tensor, int, int], Tensor]  # see `sample_latents_of`

# Orientations of a tile (arguments of sampler.orient): as it is; turned by half; and flipped; and by quarters.
ORIENTATIONS = {1: (0,), 2: (0, 2), 4: (0, 2, 4, 6), 8: (0, 1, 2, 3, 4, 5, 6, 7)}


def latents_path(
    regions: TrainingRegions, autoencoder_fingerprint: str, directory: Path, orientations: int, dtype: torch.dtype
) -> Path:
    """Name the cache of the regions of one level: `<directory>/<slide>.level-<k>.<hash of all it depends on>.npy`.

    dtype: what the autoencoder computes in.
    """
    settings, level = regions.file.settings, regions.level
    key = json.dumps(
        [settings.as_dict(), level, autoencoder_fingerprint, orientations, dtype], sort_keys=True, default=str
    )
    digest = hashlib.sha256(key.encode() + regions.cells.tobytes()).hexdigest()[:12]
    return Path(directory) / f"{settings.source_name}.level-{level}.{digest}.npy"


def latent_sources(
    files: Sequence[EmbeddingFile],
    levels: int,
    autoencoder_fingerprint: str,
    directory: Path,
    orientations: int,
    dtype: torch.dtype,
    at_most: int | None = None,
) -> list[tuple[TrainingRegions, Path]]:
    """Find the regions of each level of each file that has any, and name the caches of their latents.

    at_most: of each level and file, evenly taken; None: all.
    """
    found = [find_regions(file, level) for level in range(levels) for file in files]
    if at_most is not None:
        found = [replace(r, cells=r.cells[:: max(1, -(-len(r.cells) // at_most))]) for r in found]
    return [
        (regions, latents_path(regions, autoencoder_fingerprint, directory, orientations, dtype))
        for regions in found
        if len(regions.cells)
    ]


def encode_sources(
    sources: Sequence[tuple[TrainingRegions, Path]],
    autoencoder: Autoencoder,
    slides: Path | None,
    orientations: int,
    dtype: torch.dtype,
    processes: "Accelerator",
) -> None:
    """Fill the caches of `latent_sources`, shared among processes; `slides`: where they are if they have moved."""
    encoder = copy.deepcopy(autoencoder)  # its owner keeps the weights as they are
    encoder.to(processes.device, dtype)
    for number, (regions, path) in enumerate(sources):
        if number % processes.num_processes == processes.process_index:  # its share of the work
            with find_slide(regions.file, slides) as slide:
                cache_latents(regions, slide, encoder, path, orientations=orientations)
    processes.wait_for_everyone()


def cache_latents(
    regions: TrainingRegions,
    slide: Slide,
    autoencoder: Autoencoder,
    path: Path,
    *,
    orientations: int = 4,
    batch_size: int = 16,
) -> None:
    """Encode the images of regions, in some orientations, into a NumPy file.

    The file is (N, orientations, C, h, w) float16, normalised, in the order of the regions. A complete cache is kept,
    an interrupted one (`<path>.partial`) is continued. NumPy's format grows by plain appending: what is done survives
    a kill and a full disk, both of which damage an HDF5 file.

    Args:
        regions: Of one level.
        slide: Which they lie on; open.
        autoencoder: It encodes.
        path: The file.
        orientations: 1, 2, 4 or 8, see ORIENTATIONS.
        batch_size: Images through the autoencoder at once.
    """
    side = regions.file.settings.tile_px // autoencoder.factor
    shape = len(regions.cells), orientations, autoencoder.channels, side, side

    def encoded(numbers: range) -> Tensor:
        images = [regions.image(n, slide) for n in numbers]
        oriented = np.stack([orient(image, k) for image in images for k in ORIENTATIONS[orientations]])
        return autoencoder.encode(to_network(oriented))

    name = f"latents {slide.name} level {regions.level}"
    _fill(path, shape, encoded, at_once=max(1, batch_size // orientations), name=name)


def sample_latents_of(regions: TrainingRegions, sample: Sample, path: Path, shape: tuple[int, int, int]) -> None:
    """Write a model's own samples of regions into a NumPy file, as `cache_latents` writes what their images hold.

    Args:
        regions: Of one level.
        sample: Samples latents (N, C, h, w) under grids of embeddings (N, 2^level, 2^level, D) of a level; it is also
            given the number of the first.
        path: The file.
        shape: (C, h, w) of a latent.
    """
    grids = EmbeddingGrids(regions.file)

    def sampled(numbers: range) -> Tensor:
        under = np.stack([grids.under(regions, n) for n in numbers])
        return sample(torch.from_numpy(under), regions.level, numbers.start)

    name = f"samples {regions.file.settings.source_name} level {regions.level}"
    _fill(path, (len(regions.cells), 1, *shape), sampled, at_once=8, name=name)


def _fill(path: Path, shape: tuple[int, ...], make: Callable[[range], Tensor], at_once: int, name: str) -> None:
    """Write rows of an array of `shape` as `make` makes them, where the file is not complete yet."""
    partial = path.with_name(f"{path.name}.partial")
    if path.exists() and not path.with_name(f"{path.name}.lock").exists():
        return
    with lock(path, wait=True), write_errors(path):
        if path.exists():
            return
        with partial.open("ab") as cache:
            done = _continue(cache, shape)
            quiet = None if log.isEnabledFor(logging.WARNING) else True
            with tqdm(total=shape[0], initial=done, desc=name, unit="region", disable=quiet) as bar:
                for start in range(done, shape[0], at_once):
                    numbers = range(start, min(start + at_once, shape[0]))
                    cache.write(make(numbers).cpu().numpy().astype("<f2").tobytes())
                    cache.flush()
                    bar.update(len(numbers))
        partial.replace(path)


def _continue(cache: BinaryIO, shape: tuple[int, ...]) -> int:
    """Cut the open file after its last whole row, or begin it; returns the number of rows it holds."""
    begin = io.BytesIO()
    np.lib.format.write_array_header_1_0(begin, {"descr": "<f2", "fortran_order": False, "shape": shape})
    header, row_bytes = begin.getvalue(), 2 * int(np.prod(shape[1:]))
    size = cache.tell()
    if size < len(header):
        cache.truncate(0)
        cache.write(header)
        return 0
    done = (size - len(header)) // row_bytes
    cache.truncate(len(header) + done * row_bytes)
    return done
