"""A model directory: autoencoder, denoiser, conditioner and noise schedule, in diffusers' layout; load and save."""

import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from largegen.errors import InputError, ModelError
from largegen.models.autoencoder import AUTOENCODERS, Autoencoder
from largegen.models.conditioners import CONDITIONERS
from largegen.models.denoiser import DENOISERS, NOISE_SCHEDULE, DenoiserConfig, build_denoiser, to_eps
from largegen.models.directory import find_model, load_scheduler, read_index, write_model
from largegen.models.info import ModelInfo
from largegen.models.known_embeddings import KnownEmbeddings
from largegen.models.linear_decoder import LinearDecoder
from largegen.models.storage import load_network
from largegen.models.student import Student, StudentInfo
from largegen.models.tuned import Tuned
from largegen.runtime.device import keep_freed_memory, resolve_device, resolve_precision
from largegen.runtime.files import atomic
from largegen.slides.resolution import mag_of

LINEAR_DECODER = "linear_decoder.safetensors"
KNOWN_EMBEDDINGS = "known_embeddings.safetensors"


class Model:
    """The networks that turn embeddings into images.

    Attributes:
        autoencoder: Images <-> latents, see autoencoder.py.
        unet: Predicts the noise, or v.
        conditioner: Embeddings -> context tokens, see conditioners.py.
        scheduler: The training noise schedule.
        info: What travels with the weights.
        directory: Where it was loaded from; None for a new one.
        linear_decoder: See linear_decoder.py; None where the model has none.
        known: Statistics of its training embeddings; None where the model has none.
        tuned: Few steps that suit it; None where they were not sought.
        student_info: What its distilled form is good for; None where the model has none.
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
        known: KnownEmbeddings | None = None,
        student_info: StudentInfo | None = None,
        tuned: Tuned | None = None,
    ):
        self.autoencoder, self.unet, self.conditioner = autoencoder, unet, conditioner
        self.scheduler, self.info, self.directory = scheduler, info, directory
        self.linear_decoder, self.known = linear_decoder, known
        self.student_info, self.tuned = student_info, tuned

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.unet.parameters()).device  # diffusers' own property looks at all its modules, each time

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser and the autoencoder compute in."""
        return next(self.unet.parameters()).dtype

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return self.autoencoder.factor

    @property
    def window(self) -> int:
        """Side of a window, in latents: what the denoiser was trained on."""
        return int(self.unet.config.sample_size)

    @property
    def levels(self) -> int:
        """How many magnifications the model knows, each half the one before; 1: the base alone."""
        return int(self.conditioner.config.get("levels", 1))

    @property
    def region_dim(self) -> int:
        """Width of the embedding of the region around a tile; 0 for a model that takes none."""
        return int(self.conditioner.config.get("region_dim", 0))

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of the base, the finest that it was trained on; None where that is not known (scenes)."""
        return self.info.base_mpp

    @property
    def level_names(self) -> list[str]:
        """Magnifications that the model knows, by name, the finest first."""
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

    @cached_property
    def student(self) -> Student:
        """The distilled form, loaded when it is first asked for. Raises ModelError where there is none, or damaged."""
        if self.directory is None or self.student_info is None:
            raise ModelError(f"model {self.info.name}: has no distilled form; `largegen distill` makes one")
        teacher = load_network(self.directory / "unet", DENOISERS)
        student = Student.load(self.directory, self.student_info, teacher, self.scheduler)
        nn.Module.to(student.unet, device=self.device, dtype=self.dtype, memory_format=torch.channels_last)
        return student

    @torch.inference_mode()
    def eps(self, latents: Tensor, timestep: Tensor | int, context: Tensor) -> Tensor:
        """Predict the noise of noisy latents.

        Args:
            latents: (B, C, w, w) float.
            timestep: 0-based; one for all, or (B,).
            context: Tokens (B, T, D'), as `context` gives them.

        Returns:
            The noise (B, C, w, w) float32.
        """
        return self._eps(latents, timestep, context)

    def eps_under(self, latents: Tensor, timestep: int, grids: Tensor, level: int) -> Tensor:
        """Predict the noise of noisy latents under grids of embeddings, with gradients to these.

        Args:
            latents: (B, C, w, w) float.
            timestep: 0-based.
            grids: (B, h, w, D).
            level: Magnification level of the grids.

        Returns:
            The noise (B, C, w, w) float32.
        """
        tokens = self.conditioner(*self.conditioner.arrange(grids.to(self.device), level))
        return self._eps(latents, timestep, tokens.float())

    def _eps(self, latents: Tensor, timestep: Tensor | int, context: Tensor) -> Tensor:
        latents = latents.to(self.device)
        inputs = latents.to(self.dtype, memory_format=torch.channels_last)
        output = self.unet(inputs, timestep, context.to(self.device, self.dtype)).sample
        return to_eps(output, latents, timestep, self.scheduler)

    @torch.inference_mode()
    def context(self, embeddings: Tensor, level: int = 0) -> Tensor:
        """Turn embeddings into context tokens.

        Args:
            embeddings: (N, D), or grids of them (N, h, w, D).
            level: Magnification level of the grids; 0 is the finest.

        Returns:
            (N, T, D') float32.
        """
        grids = embeddings[:, None, None] if embeddings.ndim == 2 else embeddings
        return self.conditioner(*self.conditioner.arrange(grids.to(self.device), level)).float()

    @torch.inference_mode()
    def null_context(self) -> Tensor:
        """Return the tokens (1, T, D') float32 of the unconditional prediction."""
        return self.conditioner.null(1).float()

    def save(self, path: Path, dtype: torch.dtype | None = None, encoder: Path | None = None) -> None:
        """Write the model directory atomically.

        Args:
            path: The directory.
            dtype: Of the weights; None: as they are.
            encoder: Directory of an encoder that is copied into it.
        """
        with atomic(Path(path)) as temporary:
            self.write(temporary, dtype, encoder)

    def write(self, directory: Path, dtype: torch.dtype | None = None, encoder: Path | None = None) -> None:
        """Write the model's files into `directory`; as `save`, which is atomic."""
        parts = {"vae": self.autoencoder.vae, "unet": self.unet, "conditioner": self.conditioner}
        for _ in write_model(directory, parts, self.scheduler, self.info, dtype):
            pass
        if self.linear_decoder:
            self.linear_decoder.save(directory / LINEAR_DECODER)
        if self.known:
            self.known.save(directory / KNOWN_EMBEDDINGS)
        if encoder:
            shutil.copytree(encoder, directory / "encoder")


def level_names(mpp: float | None, count: int) -> list[str]:
    """Name magnification levels over a base of `mpp`: `20x`, `10x`, ...

    Where the base is unknown they are named by how many times coarser they are: `1x`, `2x`, ...
    """
    return [f"{round(mag_of(mpp)) / 2**k:g}x" if mpp else f"{2**k}x" for k in range(count)]


def load_model(name_or_dir: str | Path = "starter", device: str = "auto", precision: str = "auto") -> Model:
    """Load a model for sampling.

    Args:
        name_or_dir: Name of a bundled model, or a model or run directory.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16 or fp16.

    Returns:
        The model, on the device.

    Raises:
        ModelError: For a directory that is no model, and for a missing, damaged or wrong-shaped weight file.
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
    scheduler = load_scheduler(directory)
    vae, unet, conditioner = (network.eval().requires_grad_(False) for network in networks)
    for part, found, wanted in (
        ("in_channels", unet.config.in_channels, vae.config.latent_channels),
        ("cross_attention_dim", unet.config.cross_attention_dim, conditioner.config.cross_attention_dim),
    ):
        if found != wanted:
            raise ModelError(f"{directory}: unet has {part} {found}, but its other networks {wanted}")
    autoencoder, linear = Autoencoder(vae), LinearDecoder.load(directory / LINEAR_DECODER)
    if linear and tuple(linear.weight.shape[1:]) != (autoencoder.factor, autoencoder.factor, autoencoder.channels):
        raise ModelError(f"{directory / LINEAR_DECODER}: does not match the autoencoder")
    known = KnownEmbeddings.load(directory / KNOWN_EMBEDDINGS)
    if known and len(known.mean) != index.info.embedding_dim:
        raise ModelError(f"{directory / KNOWN_EMBEDDINGS}: does not match the conditioner")
    few = StudentInfo.load(directory), Tuned.load(directory)
    model = Model(autoencoder, unet, conditioner, scheduler, index.info, directory, linear, known, *few)
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
    """Make a model with new weights.

    Args:
        config: The architecture of the denoiser and the Summarizer.
        conditioner: Name of the conditioner's class.
        autoencoder: Of the latents.
        dim: D of the embeddings.
        tile_px: Side of a tile.
        info: What travels with the weights.
        levels: Magnification levels, for the Summarizer.

    Raises:
        InputError: For tiles that the networks cannot halve as often as they do.
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
