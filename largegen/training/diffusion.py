"""Fit the conditional latent diffusion model: from slides and their embeddings to a denoiser of latents."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.data import Dataset

from largegen.conditioning import CONDITIONERS
from largegen.dataset import HeldOut, sample_rng, to_pictures
from largegen.embedding_file import EmbeddingFile
from largegen.errors import InputError, ModelError
from largegen.model import Model, to_eps
from largegen.sampling import guided, make_scheduler
from largegen.training.loop import Task
from largegen.training.pictures import contact_sheet

CONDITION_DROPOUT = 0.1  # [L] and [Z]: part of the samples that see the null condition
PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 2.0
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
}


@dataclass(frozen=True)
class DenoiserConfig:
    """The form of the denoiser."""

    channels: tuple[int, ...]  # one per resolution, from the latents' own down by halves
    attention: tuple[bool, ...]  # at which of them there is (self- and cross-) attention
    layers: int  # residual blocks per resolution (one more on the way up)
    cross_attention_dim: int  # width of a context token
    heads: int = 1
    norm_groups: int = 32
    prediction: str = "epsilon"  # what the network is trained to give: epsilon (the noise) or v_prediction


PRESETS = {
    "published": DenoiserConfig((192, 384, 576, 960), (False, True, True, True), 2, 512),
    "starter": DenoiserConfig((96, 128, 192), (False, False, True), 1, 256, 4, 16, "v_prediction"),
    "tiny": DenoiserConfig((16, 32), (False, True), 1, 32, norm_groups=8),
}


def build_denoiser(config: DenoiserConfig, latent_channels: int, window: int) -> UNet2DConditionModel:
    """A U-Net that predicts the noise of (B, latent_channels, window, window) latents."""
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in config.attention]
    return UNet2DConditionModel(
        sample_size=window,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.channels,
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        layers_per_block=config.layers,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
        norm_num_groups=config.norm_groups,
    )


class LatentTiles(Dataset):
    """Latents and embeddings of the tiles of a cohort; sample n is drawn from its number alone.

    files: embedding files with their latent caches (latents.cache_latents). A sample is the `latents`
    (C, h, w) of a tile laid one of the cached ways, its `embedding` (D,), a `timestep`, the `noise`, and whether to
    `drop` the condition. Tiles that touch a validation block, a part `held_out` of all blocks, are left out. Raises
    InputError for a cohort without training tiles.
    """

    def __init__(self, files: Sequence[tuple[EmbeddingFile, Path]], held_out: float, seed: int):
        self.caches = [cache for _, cache in files]
        self.features = [file.features() for file, _ in files]
        self.seed = seed
        self._open: dict[int, np.ndarray] = {}
        training, validation = [], []
        for number, (file, _) in enumerate(files):
            s = file.settings
            blocks = HeldOut.for_tiles(s.tile_px, held_out, seed)
            for row, (x, y) in enumerate(np.rint(file.coords() / s.downsample).astype(int).tolist()):
                if not blocks.touches(s.source_name, x, y, s.tile_px):
                    training.append((number, row))
                elif blocks.covers(s.source_name, x, y, s.tile_px):
                    validation.append((number, row))
        if not training:
            raise InputError("no training tile: the embedding files are empty, or --validation holds all of them")
        self.training, self.validation = np.array(training), np.array(validation).reshape(-1, 2)

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        rng = sample_rng(self.seed, sample)
        number, row = self.training[rng.integers(len(self.training))]
        latents, embedding = self.read(number, row, rng)
        return {
            "latents": latents,
            "embedding": embedding,
            "timestep": torch.tensor(int(rng.integers(NOISE_SCHEDULE["num_train_timesteps"]))),
            "drop": torch.tensor(bool(rng.random() < CONDITION_DROPOUT)),
            "noise": torch.from_numpy(rng.standard_normal(latents.shape, np.float32)),
        }

    def read(self, number: int, row: int, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Latents (C, h, w) and embedding (D,) float32 of one tile: laid at random, or as it is without `rng`."""
        if number not in self._open:
            self._open[number] = np.load(self.caches[number], mmap_mode="r")
        cache = self._open[number]
        way = int(rng.integers(cache.shape[1])) if rng else 0
        latents = torch.from_numpy(cache[row, way].astype(np.float32))
        return latents, torch.from_numpy(self.features[number][row])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps the files itself; pickled, they would be copied

    def batch(self, tiles: np.ndarray) -> tuple[Tensor, Tensor]:
        """Latents (N, C, h, w) and embeddings (N, D) of tiles (N, 2), as they are."""
        latents, embeddings = zip(*(self.read(*tile) for tile in tiles.tolist()), strict=True)
        return torch.stack(latents), torch.stack(embeddings)


class DiffusionTask(Task):
    """The denoiser and the conditioner; the loss is the error of what it predicts at a uniform timestep [L, Z].

    Latent channels count by the root of their importance to the picture, where the autoencoder knows it: a small
    network spends itself on layout and colour before the finest detail.
    """

    def __init__(self, dataset: LatentTiles, model: Model, config: DenoiserConfig, encoder: Path | None, dtype=None):
        super().__init__()
        self.dataset, self.model, self.encoder, self.dtype = dataset, model, encoder, dtype
        self.unet, self.conditioner = model.unet, model.conditioner
        self.scheduler = model.scheduler
        weights = model.autoencoder.importance.sqrt()
        self.register_buffer("channel_weights", (weights / weights.mean()).clone(), persistent=False)
        counts = {"tiles": len(dataset.training), "validation_tiles": len(dataset.validation)}
        data = {"autoencoder": model.autoencoder.fingerprint, **counts, "seed": dataset.seed}
        self.settings = {"kind": "denoiser", **asdict(config), **model.info, **data}

    def _predict(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.unet(latents, timestep, context).sample.float()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timestep"])
        context = self.conditioner(batch["embedding"])
        context = torch.where(batch["drop"][:, None, None], self.conditioner.null(1), context)
        target = self._target(batch["latents"], batch["noise"], batch["timestep"])
        return self._loss(self._predict(noisy, batch["timestep"], context), target), {}

    def _loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target).square() * self.channel_weights).mean()

    def _target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network should give: the noise, or v = sqrt(a) eps - sqrt(1 - a) x0, which at high noise tells x0
        rather than eps, so that a small network learns colour and layout soon."""
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timestep)
        return noise

    def validate(self) -> dict[str, float]:
        """The loss on up to 64 held-out tiles at 8 evenly spaced timesteps, always with the same noise."""
        tiles = self.dataset.validation
        if not len(tiles):
            return {}
        tiles = tiles[:: max(1, len(tiles) // 64)][:64]
        latents, embeddings = (t.to(self.unet.device) for t in self.dataset.batch(tiles))
        context = self.conditioner(embeddings)
        losses = []
        for timestep in range(62, 1000, 125):
            noise = sample_rng(self.dataset.seed, 2**63 + timestep).standard_normal(latents.shape, np.float32)
            noise, when = torch.from_numpy(noise).to(latents), torch.tensor([timestep], device=latents.device)
            noisy = self.scheduler.add_noise(latents, noise, when)
            parts = zip(noisy.split(16), self._target(latents, noise, when).split(16), context.split(16), strict=True)
            losses += [self._loss(self._predict(x, when, c), target).item() for x, target, c in parts]
        return {"validation_loss": float(np.mean(losses))}

    def preview(self, path: Path) -> None:
        """Above: real tiles, as the autoencoder gives them; below: tiles sampled from their embeddings."""
        tiles = self.dataset.validation if len(self.dataset.validation) >= 8 else self.dataset.training
        latents, embeddings = self.dataset.batch(tiles[:: max(1, len(tiles) // 8)][:8])
        context = self.conditioner(embeddings.to(self.unet.device))

        def eps(x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
            return to_eps(self._predict(x, timestep, tokens), x, timestep, self.scheduler)

        denoise = guided(eps, self.conditioner.null(1), PREVIEW_GUIDANCE)
        scheduler: DDIMScheduler = make_scheduler("ddim", self.scheduler, PREVIEW_STEPS)
        noise = sample_rng(self.dataset.seed, 2**63).standard_normal(latents.shape, np.float32)
        sampled = torch.from_numpy(noise).to(self.unet.device)
        for timestep in scheduler.timesteps:
            sampled = scheduler.step(denoise(sampled, timestep, context), timestep, sampled).prev_sample
        decoded = [self.model.autoencoder.decode(x) for x in (latents, sampled)]
        contact_sheet(to_pictures(torch.cat(decoded)), len(latents), path)

    def export(self, directory: Path) -> None:
        self.model.write(directory, self.dtype, self.encoder)


def build_model(
    config: DenoiserConfig, conditioner: str, autoencoder, width: int, tile_px: int, info: dict[str, Any]
) -> Model:
    """A model with new weights for embeddings of `width` numbers and tiles of `tile_px` px.

    Raises InputError for a size of tiles that the networks cannot halve as often as they do.
    """
    divisor = autoencoder.factor * 2 ** (len(config.channels) - 1)
    if tile_px % divisor:
        raise InputError(f"tiles of {tile_px} px: this autoencoder and preset need a multiple of {divisor} px")
    unet = build_denoiser(config, autoencoder.channels, tile_px // autoencoder.factor)
    tokens = CONDITIONERS[conditioner](embedding_dim=width, cross_attention_dim=config.cross_attention_dim)
    return Model(autoencoder, unet, tokens, DDPMScheduler(**NOISE_SCHEDULE, prediction_type=config.prediction), info)


def start_from(model: Model, other: Model) -> None:
    """Take over the denoiser's and the conditioner's weights. Raises ModelError where their forms differ."""
    for name in ("unet", "conditioner"):
        try:
            getattr(model, name).load_state_dict(getattr(other, name).state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise ModelError(f"--init-from {other.directory}: its {name} has another form: {reason}") from error
