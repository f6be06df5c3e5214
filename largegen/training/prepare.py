"""From embedding files and slides to a trained denoiser: the preparation around the training loop."""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from largegen.conditioning.suitable import warn_of_resolution
from largegen.embeddings.cohort import check_together, find_embeddings
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.settings import EmbeddingSettings
from largegen.embeddings.source import find_slide
from largegen.errors import InputError
from largegen.models.autoencoder import load_autoencoder
from largegen.models.denoiser import PRESETS
from largegen.models.directory import BUNDLED, find_model, read_index
from largegen.models.encoder import load_encoder
from largegen.models.info import ModelInfo
from largegen.models.known_embeddings import FEWEST, KnownEmbeddings, know_embeddings
from largegen.models.model import build_model
from largegen.models.start_from import start_from
from largegen.runtime.device import export_dtype, resolve_precision
from largegen.runtime.fingerprints import content_digest
from largegen.training.accelerator import make_accelerator
from largegen.training.config import CohortConfig, LoopConfig
from largegen.training.dataset import LatentRegions
from largegen.training.latents import encode_sources, latent_sources
from largegen.training.sample_metrics import SampleMetrics
from largegen.training.tasks.denoiser import DiffusionTask
from largegen.training.trained_on import info_of

log = logging.getLogger(__name__)

KNOWN_TILES = 100_000  # whose statistics are taken, at most
CONDITIONER_CLASSES = {"patch": "PatchConditioner", "summarizer": "Summarizer"}


def denoiser_task(config: CohortConfig, loop: LoopConfig) -> DiffusionTask:
    """Set up a denoiser to train and its data; its `prepare` encodes the regions' latents into the cache.

    Args:
        config: What it is trained on, and its architecture; resolved, see CohortConfig.resolve.
        loop: How it is trained.

    Raises:
        InputError, EmbeddingFileError, ModelError: Embedding files, slides, autoencoder and preset do not fit together.
    """
    processes, export = make_accelerator(loop), export_dtype(config.export_precision)
    torch.manual_seed(loop.seed)  # of the first weights, the same in every process
    files = [EmbeddingFile(path) for path in find_embeddings(config.embeddings, config.recursive)]
    settings = check_together(files)
    for file in files:
        find_slide(file, config.slides).close()  # all are there before the long work begins
    autoencoder = load_autoencoder(BUNDLED.get(config.vae, Path(config.vae)))
    form, conditioner = PRESETS[config.preset], CONDITIONER_CLASSES[config.conditioner]
    info = _info(config, files, settings)
    model = build_model(form, conditioner, autoencoder, settings.dim, settings.tile_px, info, config.levels)
    model.known = _known(files, settings.dim)
    if config.init_from:
        directory = find_model(config.init_from)
        for file in files:
            warn_of_resolution(read_index(directory).info, file.settings, file.path)
        start_from(model, directory)
    dtype = resolve_precision("auto", processes.device)
    fingerprint = autoencoder.fingerprint
    assert config.cache is not None, "CohortConfig.resolve fills it in"
    sources = latent_sources(files, config.levels, fingerprint, config.cache, config.orientations, dtype)
    arrange = copy.deepcopy(model.conditioner).to("meta").arrange  # no weights go to the workers: a GPU's cannot
    dataset = LatentRegions(sources, config.levels, arrange, config.held_out, loop.seed)
    for level, name in enumerate(model.level_names):
        counts = len(dataset.training[level]), len(dataset.validation[level])
        log.info("level %d (%s): %d regions to train on, %d held out", level, name, *counts)
    sample_metrics = _sample_metrics(config, settings.encoder, dataset, processes.device) if config.eval_every else None

    def encode() -> None:
        encode_sources(sources, autoencoder, config.slides, config.orientations, dtype, processes)

    encoder = _encoder_directory(settings.encoder)
    task = DiffusionTask(dataset, model, form, encoder, export, sample_metrics, encode)
    task.settings |= {"held_out": config.held_out, "data": _digest(files)}
    autoencoder.to(processes.device, torch.float32)
    return task


def _known(files: Sequence[EmbeddingFile], dim: int) -> KnownEmbeddings | None:
    """Statistics of the training embeddings; None of too few."""
    count = sum(file.count for file in files)
    if count < FEWEST * dim:
        log.info("%d tiles: too few to know what is unlike them; the model will not warn of strange references", count)
        return None
    every = -(-count // KNOWN_TILES)
    return know_embeddings(torch.from_numpy(np.concatenate([file.features()[::every] for file in files])))


def _digest(files: Sequence[EmbeddingFile]) -> str:
    """Tell apart embeddings of the same names: by their settings, their places and some of their values."""
    contents = [json.dumps(file.settings.as_dict(), default=str).encode() + file.coords().tobytes() for file in files]
    return content_digest(contents, (torch.from_numpy(file.features()) for file in files))


def _sample_metrics(config: CohortConfig, own: str, dataset: LatentRegions, device: torch.device) -> SampleMetrics:
    """Who looks at samples; `own` is the embeddings' encoder. Raises InputError where nothing is held out."""
    if max(map(len, dataset.validation)) < 2:
        raise InputError(f"`eval_every` {config.eval_every}: fewer than two regions are held out; raise `held_out`")
    encoder = load_encoder(config.eval_encoder or own, config.encoder_weights, device)
    return SampleMetrics(encoder, config.eval_every, config.eval_samples)


def _info(config: CohortConfig, files: Sequence[EmbeddingFile], settings: EmbeddingSettings) -> ModelInfo:
    """Say what travels with the weights: where they come from, and the licences of all that they come from."""
    ancestor = read_index(find_model(config.init_from)).info if config.init_from else None
    licences = dict.fromkeys(filter(None, (settings.encoder_licence, ancestor.licence if ancestor else "")))
    info = info_of(files, settings, config.name, config.licence or "; ".join(licences))
    return replace(info, init_from=(ancestor.name or config.init_from) if ancestor else None)


def _encoder_directory(name: str) -> Path | None:
    """Find the directory of an encoder that `largegen train-encoder` wrote: it is small and open, and travels along."""
    kind, _, where = name.partition(":")
    directory = BUNDLED["starter"] / "encoder" if name == "starter" else Path(where) if kind == "local-dir" else None
    if directory is None or (directory / "model.safetensors").is_file():
        return directory
    log.warning("encoder %s: not found at %s; the model will be without it", name, directory.absolute())
    return None
