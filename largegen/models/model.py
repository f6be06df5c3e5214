"""A model directory: autoencoder, denoiser, conditioner and noise schedule, in diffusers' layout; load and save."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from largegen.errors import InputError, ModelError
from largegen.models.autoencoder import AUTOENCODERS, Autoencoder
from largegen.models.conditioners import CONDITIONERS
from largegen.models.denoiser import DENOISERS, NOISE_SCHEDULE, DenoiserConfig, build_denoiser, to_eps
from largegen.models.info import ModelInfo
from largegen.models.linear_decoder import LinearDecoder, load_linear_decoder, save_linear_decoder
from largegen.models.storage import load_network, save_network
from largegen.runtime.device import keep_freed_memory, resolve_device, resolve_precision
from largegen.runtime.files import atomic, write_json
from largegen.version import __version__

log = logging.getLogger(__name__)

BUNDLED = {"starter": Path(__file__).parents[1] / "starter"}
INDEX = "model_index.json"
CLASS_NAME = "LargegenModel"
LINEAR_DECODER = "linear_decoder.safetensors"


class Model:
    """The networks that turn embeddings into images.

    autoencoder: see autoencoder.py; unet: predicts the noise; conditioner: embeddings -> context tokens
    (conditioners.py); scheduler: the training noise schedule; info: what travels with the weights (`name`,
    `encoder`, `encoder_licence`, `licence`, `tile_px`, `embedding_dim`, what it was trained on); directory:
    where it was loaded from, if it was; linear_decoder: see linear_decoder.py, None where the model has none.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet2DConditionModel,
        conditioner: nn.Module,
        scheduler: DDPMScheduler,
        info: ModelInfo,
        directory: Path | None = None,
        linear_decoder: LinearDecoder | None = None,
    ):
        self.autoencoder, self.unet, self.conditioner = autoencoder, unet, conditioner
        self.scheduler, self.info, self.directory = scheduler, info, directory
        self.linear_decoder = linear_decoder

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return self.autoencoder.factor

    @property
    def window(self) -> int:
        """Side of a window, in latents: what the denoiser was trained on."""
        return self.unet.config.sample_size

    @property
    def levels(self) -> int:
        """How many magnifications the model knows, each half the one before; 1: the base alone."""
        return self.conditioner.config.get("levels", 1)

    @property
    def region_dim(self) -> int:
        """Width of the embedding of the region around a tile; 0 for a model that takes none."""
        return self.conditioner.config.get("region_dim", 0)

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of the base, the finest that it was trained on; None where that is not known (scenes)."""
        return self.info.base_mpp

    @property
    def level_names(self) -> list[str]:
        """See `level_names`."""
        return level_names(self.mpp, self.levels)

    @property
    def tile_px(self) -> int:
        """Side of a window, in pixels."""
        return self.window * self.factor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Model":
        """Move the networks; the conditioner, which is small, stays in fp32."""
        self.autoencoder.to(device, dtype)
        # Not ModelMixin.to, which warns of layers to be kept in fp32 though there are none.
        nn.Module.to(self.unet, device=device, dtype=dtype, memory_format=torch.channels_last)
        self.conditioner.to(device)
        return self

    @torch.inference_mode()
    def eps(self, latents: Tensor, timestep: Tensor | int, context: Tensor) -> Tensor:
        """The predicted noise (B, C, w, w) float32 of noisy latents at a 0-based timestep, given context (B, T, D)."""
        latents = latents.to(self.device)
        inputs = latents.to(self.dtype, memory_format=torch.channels_last)
        output = self.unet(inputs, timestep, context.to(self.device, self.dtype)).sample
        return to_eps(output, latents, timestep, self.scheduler)

    @torch.inference_mode()
    def context(self, embeddings: Tensor, level: int = 0) -> Tensor:
        """Embeddings (N, D), or grids of them (N, h, w, D) of a level -> context tokens (N, T, D') float32."""
        grids = embeddings[:, None, None] if embeddings.ndim == 2 else embeddings
        return self.conditioner(*self.conditioner.arrange(grids.to(self.device), level)).float()

    @torch.inference_mode()
    def null_context(self) -> Tensor:
        """The tokens (1, T, D') float32 of the unconditional prediction."""
        return self.conditioner.null(1).float()

    def save(self, path: Path, dtype: torch.dtype | None = None, encoder: Path | None = None) -> None:
        """Write the model directory atomically, its weights as `dtype` if given; `encoder` is copied into it."""
        with atomic(Path(path)) as temporary:
            self.write(temporary, dtype, encoder)

    def write(self, directory: Path, dtype: torch.dtype | None = None, encoder: Path | None = None) -> None:
        """Write the model's files into `directory`."""
        parts = {"vae": self.autoencoder.vae, "unet": self.unet, "conditioner": self.conditioner}
        for _ in write_model(directory, parts, self.scheduler, self.info, dtype):
            pass
        if self.linear_decoder:
            save_linear_decoder(self.linear_decoder, directory / LINEAR_DECODER)
        if encoder:
            shutil.copytree(encoder, directory / "encoder")


def write_model(
    directory: Path,
    parts: dict[str, nn.Module],
    scheduler: DDPMScheduler,
    info: ModelInfo,
    dtype: torch.dtype | None = None,
) -> Iterator[str]:
    """Write networks, by the names of their folders, schedule and index into `directory`; says each name when done.

    Without a conditioner it is no model to sample with, but a start for training.
    """
    for name, network in parts.items():
        save_network(network, directory / name, dtype)
        yield name
    scheduler.save_pretrained(directory / "scheduler")
    classes = {name: type(network).__name__ for name, network in parts.items()}
    write_json(
        directory / INDEX,
        {"_class_name": CLASS_NAME, "_largegen_version": __version__, **classes, "info": info.as_dict()},
    )


def level_names(mpp: float | None, count: int) -> list[str]:
    """Magnifications of levels over a base of `mpp`: `20x`, `10x`, ...; without one `1x`, `2x`, ..., how many times
    coarser than the base."""
    return [f"{round(10 / mpp) / 2**k:g}x" if mpp else f"{2**k}x" for k in range(count)]


def is_model(path: Path) -> bool:
    """Whether a model of this package is there, not one of diffusers, whose directories look the same."""
    return (path / INDEX).is_file() and CLASS_NAME in (path / INDEX).read_text()


def find_model(name_or_dir: str | Path) -> Path:
    """The directory of a bundled model's name or of a path. Raises ModelError where there is no model."""
    directory = BUNDLED.get(str(name_or_dir), Path(name_or_dir))
    if (directory / "model" / INDEX).is_file():
        directory = directory / "model"  # a run directory of `train`
    if not (directory / INDEX).is_file():
        names = ", ".join(BUNDLED)
        raise ModelError(f"{name_or_dir}: no model there (no {INDEX}); give a model directory or one of: {names}")
    return directory


@dataclass(frozen=True)
class ModelIndex:
    """What a model directory says of itself in model_index.json."""

    parts: Mapping[str, str]  # class of each network and of what else is named there, by its folder
    info: ModelInfo


def read_index(directory: Path) -> ModelIndex:
    """Read a model directory's model_index.json.

    Raises:
        ModelError: Where it is missing or damaged.
    """
    try:
        index = dict(json.loads((directory / INDEX).read_text()))
        info = ModelInfo.from_dict(index.pop("info"))
        return ModelIndex({name: value for name, value in index.items() if not name.startswith("_")}, info)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{directory / INDEX}: damaged: {error}") from error


def load_model(name_or_dir: str | Path = "starter", device: str = "auto", precision: str = "auto") -> Model:
    """Load a bundled model by name, or a model or run directory, for sampling.

    device: auto, cpu, cuda, cuda:N or mps; precision: auto, fp32, bf16 or fp16. Raises ModelError for a directory that
    is no model, and for a missing, damaged or wrong-shaped weight file.
    """
    target = resolve_device(device)
    dtype = resolve_precision(precision, target)
    if target.type == "cpu":
        keep_freed_memory()
    directory = find_model(name_or_dir)
    index = read_index(directory)
    if "conditioner" not in index.parts:
        raise ModelError(f"{directory}: has no conditioner: a start for `largegen train --init-from`, no model yet")
    networks = [
        load_network(directory / part, classes, index.parts.get(part))
        for part, classes in (("vae", AUTOENCODERS), ("unet", DENOISERS), ("conditioner", CONDITIONERS))
    ]
    try:
        scheduler = DDPMScheduler.from_pretrained(directory / "scheduler", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory / 'scheduler'}: missing or damaged") from error
    vae, unet, conditioner = (network.eval().requires_grad_(False) for network in networks)
    for part, found, wanted in (
        ("in_channels", unet.config.in_channels, vae.config.latent_channels),
        ("cross_attention_dim", unet.config.cross_attention_dim, conditioner.config.cross_attention_dim),
    ):
        if found != wanted:
            raise ModelError(f"{directory}: unet has {part} {found}, but its other networks {wanted}")
    autoencoder, linear = Autoencoder(vae), load_linear_decoder(directory / LINEAR_DECODER)
    if linear and tuple(linear.weight.shape[1:]) != (autoencoder.factor, autoencoder.factor, autoencoder.channels):
        raise ModelError(f"{directory / LINEAR_DECODER}: does not match the autoencoder")
    model = Model(autoencoder, unet, conditioner, scheduler, index.info, directory, linear)
    return model.to(target, dtype)


def build_model(
    config: DenoiserConfig,
    conditioner: str,
    autoencoder: Autoencoder,
    dim: int,
    tile_px: int,
    info: ModelInfo,
    levels: int = 1,
) -> Model:
    """A model with new weights for `dim`-dimensional embeddings, tiles of `tile_px` px and so many levels.

    Raises InputError for a size of tiles that the networks cannot halve as often as they do.
    """
    divisor = autoencoder.factor * 2 ** (len(config.channels) - 1)
    if tile_px % divisor:
        raise InputError(f"tiles of {tile_px} px: this autoencoder and preset need a multiple of {divisor} px")
    unet = build_denoiser(config, autoencoder.channels, tile_px // autoencoder.factor)
    form = {"embedding_dim": dim, "cross_attention_dim": config.cross_attention_dim}
    if conditioner == "Summarizer":
        form |= {**asdict(config.summarizer), "levels": levels}
    tokens = CONDITIONERS[conditioner](**form)
    return Model(autoencoder, unet, tokens, DDPMScheduler(**NOISE_SCHEDULE, prediction_type=config.prediction), info)


def start_from(model: Model, directory: Path) -> None:
    """Take over the weights of a model directory's denoiser, and of its conditioner if it is of the same kind. Raises
    ModelError where their forms differ."""
    parts = read_index(directory).parts
    if "unet" not in parts:
        raise ModelError(f"`init_from` {directory}: has no denoiser")
    for name, classes in (("unet", DENOISERS), ("conditioner", CONDITIONERS)):
        own = getattr(model, name)
        if name == "conditioner" and parts.get(name) != type(own).__name__:
            log.info("`init_from` %s: another kind of conditioner; ours starts over", directory)
            continue
        try:
            own.load_state_dict(load_network(directory / name, classes, parts[name]).state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise ModelError(f"`init_from` {directory}: its {name} has another form: {reason}") from error
