"""From a model and embedding files to a student of the model: the preparation around the training loop."""

import copy
import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from largegen.conditioning.suitable import warn_of_resolution
from largegen.embeddings.cohort import check_together, find_embeddings
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.source import find_slide
from largegen.errors import InputError
from largegen.models.model import Model, load_model
from largegen.models.student import StudentInfo
from largegen.runtime.device import export_dtype, resolve_precision
from largegen.runtime.fingerprints import network_checksum
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.patches import sample_patches
from largegen.sampling.settings import Sampling
from largegen.training.accelerator import make_accelerator
from largegen.training.config import DistillationConfig, LoopConfig
from largegen.training.consistency import TeacherPath, few_ends
from largegen.training.dataset import GuidedRegions
from largegen.training.latents import Sample, encode_sources, latent_sources, sample_latents_of
from largegen.training.tasks.distillation import DistillationTask
from largegen.version import __version__

SAMPLE_STEPS = 20  # of a teacher's samples that stand for images

log = logging.getLogger(__name__)


def distillation_task(model_name: str, config: DistillationConfig, loop: LoopConfig, out: Path) -> DistillationTask:
    """Set up a student to train and its data; its `prepare` encodes the regions' latents into the cache.

    Args:
        model_name: Of the teacher: a bundled model's name, a model or run directory.
        config: What it learns, and from what.
        loop: How it is trained.
        out: The run directory.

    Raises:
        InputError, EmbeddingFileError, ModelError: Model, embedding files and slides do not fit together.
    """
    processes, export = make_accelerator(loop), export_dtype(config.export_precision)
    torch.manual_seed(loop.seed)  # of the first weights, the same in every process
    model = load_model(model_name, str(processes.device), "fp32")
    files = [EmbeddingFile(path) for path in find_embeddings(config.embeddings, config.recursive)]
    check_embeddings(model, files)
    dtype, cache = resolve_precision("auto", processes.device), config.cache or out / "latents"
    checksum = network_checksum(model.unet)
    if config.images:
        for file in files:
            find_slide(file, config.slides).close()  # all are there before the long work begins
    fingerprint = model.autoencoder.fingerprint if config.images else f"samples {checksum} {SAMPLE_STEPS} {loop.seed}"
    orientations = config.orientations if config.images else 1
    sources = latent_sources(files, model.levels, fingerprint, cache, orientations, dtype, config.regions)
    arrange = copy.deepcopy(model.conditioner).to("meta").arrange  # no weights go to the workers: a GPU's cannot
    dataset = GuidedRegions(sources, model.levels, arrange, config.held_out, loop.seed, config.finest)
    for level, name in enumerate(model.level_names):
        counts = len(dataset.training[level]), len(dataset.validation[level])
        log.info("level %d (%s): %d regions to learn from, %d held out", level, name, *counts)

    def make_latents() -> None:
        if config.images:
            encode_sources(sources, model.autoencoder, config.slides, orientations, dtype, processes)
        else:
            own = load_model(model_name, str(processes.device))
            form = own.autoencoder.channels, own.window, own.window
            for number, (regions, path) in enumerate(sources):
                if number % processes.num_processes == processes.process_index:  # its share of the work
                    sample_latents_of(regions, _sampler(own, (loop.seed << 40) + (number << 20)), path, form)
            processes.wait_for_everyone()

    path = TeacherPath(model.scheduler)
    if config.target == "steps":
        path = replace(path, ends=few_ends(config.few, path.steps))
    info = StudentInfo(
        guidance=(config.guidance_min, config.guidance_max),
        rank=config.rank,
        teacher=model.info.name,
        teacher_checksum=checksum,
        licence=model.info.licence,
        scheduler={"guidance": "", "steps": "ddim", "lcm": "lcm"}[config.target],
        steps=0 if config.target == "guidance" else config.few,
        timesteps=path.timesteps if config.target == "steps" else (),
        trained_on=tuple(file.settings.source_name for file in files),
        largegen_version=__version__,
    )
    return DistillationTask(dataset, model, config, info, path, export, loop.accumulation, make_latents)


def _sampler(model: Model, seed: int) -> Sample:
    """Sample patches with the model itself, each batch of them from noise of its own."""
    settings = resolve_defaults(Sampling(steps=SAMPLE_STEPS, distilled=False), model)

    def sample(grids: Tensor, level: int, first: int) -> Tensor:
        return sample_patches(model, grids, level, replace(settings, seed=seed + first))

    return sample


def check_embeddings(model: Model, files: list[EmbeddingFile]) -> None:
    """Raise InputError for embeddings that the model was not trained on; warn of another resolution."""
    settings, info = check_together(files), model.info
    own, found = (info.encoder, info.embedding_dim, info.tile_px), (settings.encoder, settings.dim, settings.tile_px)
    if found != own:
        raise InputError(
            f"{files[0].path}: embeddings of {'{}, {} wide, of tiles of {} px'.format(*found)};"
            f" model {info.name} takes those of {'{}, {} wide, of tiles of {} px'.format(*own)}"
        )
    if model.region_dim:
        raise InputError(f"model {info.name}: takes the region around each tile, which embedding files do not hold")
    for file in files:
        warn_of_resolution(info, file.settings, file.path)
