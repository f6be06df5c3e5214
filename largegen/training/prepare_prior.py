"""From embedding files, labels and captions to a grid prior and what it is trained on."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from largegen.embeddings.cohort import check_together, find_embeddings
from largegen.embeddings.file import EmbeddingFile
from largegen.models.grid_prior import GridPrior
from largegen.models.text import ClipEncoder
from largegen.runtime.device import export_dtype, resolve_device
from largegen.training.config import HEAD_WIDTH, LoopConfig, PriorConfig
from largegen.training.grid_parts import GridPart, grid_parts, labels_of, scales_of, texts_of
from largegen.training.grid_vectors import caption_vectors, image_vectors
from largegen.training.grids import GridWindows, TrainingGrid
from largegen.training.tasks.prior import PriorTask
from largegen.training.trained_on import info_of

log = logging.getLogger(__name__)

WINDOW = 16  # tiles along a window's side, at most, by default


def prior_task(config: PriorConfig, loop: LoopConfig, name: str) -> PriorTask:
    """Prepare a grid prior to train and its data.

    Args:
        config: What it is trained on, and its architecture.
        loop: How it is trained.
        name: Of the prior, where the configuration has none.

    Raises:
        InputError, EmbeddingFileError: Embedding files, labels and captions do not fit together.
    """
    files = [EmbeddingFile(path) for path in find_embeddings(config.embeddings, config.recursive)]
    settings = check_together(files)
    parts = grid_parts(files, config.slides)
    scales, scale = scales_of(parts)
    labels, label = labels_of(config.labels, parts)
    grids = [part.grid(scale=s, label=n) for part, s, n in zip(parts, scale, label, strict=True)]
    _say_what_is_absent(parts, grids)
    largest = max(min(grid.tissue.shape) for grid in grids)
    config = replace(config, window=config.window or min(WINDOW, largest), name=config.name or name)
    grids, about_text, prompt_mean = _with_vectors(config, loop, parts, grids)
    prior = new_prior(
        config,
        grids,
        background=torch.from_numpy(files[0].background),
        prompt_mean=prompt_mean,
        seed=loop.seed,
        scales=scales,
        labels=labels,
        kind=settings.source_kind,
        background_rgb=settings.source_background,
        info=info_of(files, settings, config.name, config.licence or settings.encoder_licence).as_dict(),
        **about_text,
    )
    dataset = GridWindows(prior, grids, config.held_out, loop.seed, config.turned)
    counts = len(dataset.training), dataset.window, len(dataset.validation)
    log.info("%d windows of %d tiles to train on, %d held out", *counts)
    return PriorTask(dataset, prior, export_dtype(config.export_precision))


def new_prior(
    config: PriorConfig,
    grids: Sequence[TrainingGrid],
    background: Tensor,
    prompt_mean: Tensor | None,
    seed: int,
    **about: Any,
) -> GridPrior:
    """Make a prior with new weights, whose components are those of the grids' tissue.

    Args:
        config: Its architecture.
        grids: That it will be trained on.
        background: (D,), the embedding of glass.
        prompt_mean: (V,), taken off the vectors of prompts; None for a prior without text.
        seed: Of the weights.
        about: Further arguments of `GridPrior`.
    """
    tissue = np.concatenate([grid.features[grid.tissue] for grid in grids])
    torch.manual_seed(seed)
    prior = GridPrior(
        tissue.shape[1],
        min(config.components, tissue.shape[1], len(tissue) - 1),
        config.window,
        config.width,
        config.layers,
        config.width // HEAD_WIDTH,
        vector_dim=0 if prompt_mean is None else len(prompt_mean),
        **about,
    )
    prior.fit(torch.from_numpy(tissue), background)
    if prompt_mean is not None:
        prior.prompt_mean.copy_(prompt_mean)
    return prior


def _say_what_is_absent(parts: Sequence[GridPart], grids: Sequence[TrainingGrid]) -> None:
    absent = [part.file.path for part, grid in zip(parts, grids, strict=True) if grid.tile is None]
    if absent:
        log.info("%s: its slide is not at hand; samples show colours for the tiles of such slides", absent[0])


def _with_vectors(
    config: PriorConfig, loop: LoopConfig, parts: Sequence[GridPart], grids: list[TrainingGrid]
) -> tuple[list[TrainingGrid], dict[str, str], Tensor | None]:
    """Give grids the vectors of their captions or pictures: grids, what makes the vectors, and the mean of prompts."""
    if config.captions:
        captions = texts_of(config.captions, "caption", parts)
        vectors, mean, licence = caption_vectors(captions, config.text_encoder)
        grids = [replace(grid, vectors=own) for grid, own in zip(grids, vectors, strict=True)]
        return grids, {"text_encoder": config.text_encoder, "text_licence": licence}, mean
    if config.clip_model:
        encoder = ClipEncoder(config.clip_model, resolve_device(loop.device))
        seen, mean = image_vectors(encoder, parts, config.window)
        pairs = zip(grids, seen, strict=True)
        grids = [replace(grid, vectors=vectors, places=places) for grid, (vectors, places) in pairs]
        return grids, {"text_encoder": config.clip_model, "text_licence": encoder.licence}, mean
    return grids, {}, None
