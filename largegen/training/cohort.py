"""From embedding files and slides to a fitted denoiser: the preparation around the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from largegen import __version__
from largegen.autoencoder import Autoencoder, load_autoencoder
from largegen.dataset import HeldOut
from largegen.embedding_file import EmbeddingFile
from largegen.errors import EmbeddingFileError, InputError
from largegen.latents import cache_latents, find_slide, latents_path
from largegen.model import BUNDLED, load_model
from largegen.runtime import resolve_precision
from largegen.training.diffusion import PRESETS, DiffusionTask, LatentTiles, build_model, start_from
from largegen.training.loop import LoopConfig, fit

CONDITIONER_CLASSES = {"patch": "PatchConditioner"}


@dataclass(frozen=True)
class CohortConfig:
    """What a denoiser is fitted on, and to what form."""

    embeddings: tuple[Path, ...]  # embedding files, or directories of them
    slides: Path | None  # directory of the slides, where they have moved
    vae: str  # bundled model's name or directory
    preset: str  # of the denoiser, see diffusion.PRESETS
    conditioner: str  # patch
    init_from: str | None  # model to take the first weights from
    turns: int  # ways each tile is laid, see latents.TURNS
    cache: Path  # directory of the latents
    held_out: float  # fraction of the blocks kept for validation
    name: str  # of the model
    licence: str  # of its weights; empty: the encoder's
    export_dtype: torch.dtype  # of the exported weights


def train_denoiser(config: CohortConfig, out: Path, loop: LoopConfig) -> Path:
    """Encode the tiles' latents once, then fit a denoiser on them in `out`. Returns the model directory."""
    state = PartialState(cpu=loop.device == "cpu")
    torch.manual_seed(loop.seed)  # of the first weights, the same in every process
    files = [EmbeddingFile(path) for path in find_embeddings(config.embeddings)]
    settings = check_together(files)
    autoencoder = load_autoencoder(BUNDLED.get(config.vae, Path(config.vae)))
    if settings.tile_px % autoencoder.factor:
        raise InputError(f"tiles of {settings.tile_px} px do not divide into latents of {autoencoder.factor} px")
    autoencoder.to(state.device, resolve_precision("auto", state.device))
    caches = _cache_all(files, config, autoencoder, state)
    autoencoder.to(state.device, torch.float32)
    encoder = _encoder_directory(settings.encoder)
    info = {
        "name": config.name,
        "largegen_version": __version__,
        "encoder": settings.encoder,
        "encoder_fingerprint": settings.encoder_fingerprint,
        "encoder_licence": settings.encoder_licence,
        "licence": config.licence or settings.encoder_licence,
        "embedding_dim": settings.width,
        "tile_px": settings.tile_px,
        "trained_on": [
            {"name": f.settings.source_name, "tiles": f.count, "mpp": _working_mpp(f), "gsd_m": _working_gsd(f)}
            for f in files
        ],
    }
    form = PRESETS[config.preset]
    model = build_model(
        form, CONDITIONER_CLASSES[config.conditioner], autoencoder, settings.width, settings.tile_px, info
    )
    if config.init_from:
        start_from(model, load_model(config.init_from, "cpu", "fp32"))
    dataset = LatentTiles(list(zip(files, caches, strict=True)), HeldOut(config.held_out, seed=loop.seed), loop.seed)
    return fit(DiffusionTask(dataset, model, form, encoder, config.export_dtype), out, loop)


def find_embeddings(paths: Sequence[Path]) -> list[Path]:
    """The embedding files among files and directories. Raises InputError where there is none."""
    found = [file for path in paths for file in (sorted(path.glob("*.h5")) if path.is_dir() else [path])]
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no embedding files (.h5); `largegen embed` makes them")
    return found


def check_together(files: Sequence[EmbeddingFile]):
    """The settings that all files share. Raises EmbeddingFileError where encoder, width or tile size differ."""
    first = files[0]
    for file in files:
        for key in ("encoder", "encoder_fingerprint", "width", "tile_px"):
            mine, theirs = getattr(file.settings, key), getattr(first.settings, key)
            if mine != theirs:
                raise EmbeddingFileError(f"{file.path}: {key} {mine}, but {first.path} has {theirs}")
        if not file.count:
            raise EmbeddingFileError(f"{file.path}: holds no tile")
    return first.settings


def _cache_all(
    files: Sequence[EmbeddingFile], config: CohortConfig, autoencoder: Autoencoder, state: PartialState
) -> list[Path]:
    """Each process encodes its share of the slides, then waits for the others."""
    fingerprint = autoencoder.fingerprint
    paths = [latents_path(file, fingerprint, config.cache, config.turns) for file in files]
    for number, (file, path) in enumerate(zip(files, paths, strict=True)):
        if number % state.num_processes == state.process_index:
            with find_slide(file, config.slides) as slide:
                cache_latents(file, slide, autoencoder, path, turns=config.turns)
    state.wait_for_everyone()
    return paths


def _encoder_directory(name: str) -> Path | None:
    """The directory of an encoder that `largegen train-encoder` wrote: it is small and open, and travels along."""
    kind, _, where = name.partition(":")
    directory = BUNDLED["starter"] / "encoder" if name == "starter" else Path(where) if kind == "local-dir" else None
    return directory if directory and (directory / "model.safetensors").is_file() else None


def _working_mpp(file: EmbeddingFile) -> float | None:
    mpp = file.settings.mpp
    return None if mpp is None else round(mpp * file.settings.downsample, 4)


def _working_gsd(file: EmbeddingFile) -> float | None:
    gsd = file.settings.gsd_m
    return None if gsd is None else round(gsd * file.settings.downsample, 4)
