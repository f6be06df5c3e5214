"""Fit the conditional latent diffusion model: from slides and their embeddings to a denoiser of latents."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.data import Dataset

from largegen.autoencoder import Autoencoder
from largegen.conditioning import CONDITIONERS
from largegen.dataset import sample_rng, to_pictures, turn
from largegen.errors import InputError, ModelError
from largegen.guide import fit_linear_decoder
from largegen.latents import TURNS
from largegen.model import DENOISERS, Model, read_index, to_eps
from largegen.networks import load_network
from largegen.regions import EmbeddingGrids, Regions, split
from largegen.sampling import guided, make_scheduler
from largegen.sheet import contact_sheet
from largegen.training.loop import Task

log = logging.getLogger(__name__)

CONDITION_DROPOUT = 0.1  # [L] and [Z]: part of the samples that see the null condition
LINEAR_FIT_REGIONS = 64  # that the linear decoder of the model is fitted on
PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 2.0
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
}


@dataclass(frozen=True)
class SummarizerConfig:
    """The form of the Summarizer, where that is the conditioner."""

    hidden_dim: int
    layers: int
    heads: int
    mlp_dim: int


@dataclass(frozen=True)
class DenoiserConfig:
    """The form of the denoiser and of what conditions it."""

    channels: tuple[int, ...]  # one per resolution, from the latents' own down by halves
    attention: tuple[bool, ...]  # at which of them there is (self- and cross-) attention
    layers: int  # residual blocks per resolution (one more on the way up)
    cross_attention_dim: int  # width of a context token
    summarizer: SummarizerConfig
    heads: int = 1
    norm_groups: int = 32
    prediction: str = "epsilon"  # what the network is trained to give: epsilon (the noise) or v_prediction


PRESETS = {
    "published": DenoiserConfig(
        (192, 384, 576, 960), (False, True, True, True), 2, 512, SummarizerConfig(512, 12, 8, 2048)
    ),
    "starter": DenoiserConfig(
        (96, 128, 192), (False, False, True), 1, 256, SummarizerConfig(256, 2, 8, 512), 4, 16, "v_prediction"
    ),
    "tiny": DenoiserConfig((16, 32), (False, True), 1, 32, SummarizerConfig(32, 1, 4, 64), norm_groups=8),
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


Condition = Sequence[Tensor]  # what a conditioner takes, see conditioning.py


class LatentRegions(Dataset):
    """Latents and conditions of the regions of a cohort; sample n is drawn from its number alone.

    sources: regions of one level of one file each, with their latent caches (latents.cache_latents); arrange: a
    conditioner's. The level is drawn uniformly, so that scarce levels are seen as often as plentiful ones [Z], then one
    of its regions. A sample is the `latents` (C, h, w) and the condition (`condition.0`, ...) of a region laid one of
    the cached ways, a `timestep`, the `noise`, and whether to `drop` the condition. Regions that touch a validation
    block, a part `held_out` of all blocks, are left out. Raises InputError for a level without training regions.
    """

    def __init__(
        self, sources: Sequence[tuple[Regions, Path]], levels: int, arrange: Callable, held_out: float, seed: int
    ):
        self.sources, self.arrange, self.seed = sources, arrange, seed
        grids = {regions.file.path: EmbeddingGrids(regions.file) for regions, _ in sources}
        self.grids = [grids[regions.file.path] for regions, _ in sources]
        self._open: dict[int, np.ndarray] = {}
        self.training, self.validation = [], []  # of each level: (N, 2), source and region
        for level in range(levels):
            training, validation = [], []
            for source, (regions, _) in enumerate(sources):
                if regions.level == level:
                    kinds = split(regions, held_out, seed)
                    for found, numbers in zip((training, validation), kinds, strict=True):
                        found += [(source, n) for n in numbers.tolist()]
            if not training:
                raise InputError(f"no region of level {level} to train on: the slides are too small, or held out")
            self.training.append(np.array(training))
            self.validation.append(np.array(validation, int).reshape(-1, 2))

    def __getitem__(self, sample: int) -> dict[str, Tensor]:
        rng = sample_rng(self.seed, sample)
        regions = self.training[rng.integers(len(self.training))]
        latents, condition = self.read(*regions[rng.integers(len(regions))], rng)
        return {
            "latents": latents,
            **{f"condition.{i}": part for i, part in enumerate(condition)},
            "timestep": torch.tensor(int(rng.integers(NOISE_SCHEDULE["num_train_timesteps"]))),
            "drop": torch.tensor(bool(rng.random() < CONDITION_DROPOUT)),
            "noise": torch.from_numpy(rng.standard_normal(latents.shape, np.float32)),
        }

    def read(self, source: int, n: int, rng: np.random.Generator | None = None) -> tuple[Tensor, Condition]:
        """Latents (C, h, w) float32 and condition of one region: laid at random, or as it is without `rng`."""
        regions, path = self.sources[source]
        if source not in self._open:
            self._open[source] = np.load(path, mmap_mode="r")
        cache = self._open[source]
        way = int(rng.integers(cache.shape[1])) if rng else 0
        latents = torch.from_numpy(cache[n, way].astype(np.float32))
        grid = turn(self.grids[source].under(regions, n), TURNS[cache.shape[1]][way])
        condition = self.arrange(torch.from_numpy(grid.copy())[None], regions.level)
        return latents, [part[0] for part in condition]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps the files itself; pickled, they would be copied

    def batch(self, regions: np.ndarray) -> tuple[Tensor, Condition]:
        """Latents (N, C, h, w) and condition of regions (N, 2) as they are, of any levels."""
        latents, conditions = zip(*(self.read(*region) for region in regions.tolist()), strict=True)
        return torch.stack(latents), [torch.stack(parts) for parts in zip(*conditions, strict=True)]


class DiffusionTask(Task):
    """The denoiser and the conditioner; the loss is the error of what it predicts at a uniform timestep [L, Z].

    Latent channels count by the root of their importance to the picture, where the autoencoder knows it: a small
    network spends itself on layout and colour before the finest detail.
    """

    def __init__(self, dataset: LatentRegions, model: Model, config: DenoiserConfig, encoder: Path | None, dtype=None):
        super().__init__()
        self.dataset, self.model, self.encoder, self.dtype = dataset, model, encoder, dtype
        self.unet, self.conditioner = model.unet, model.conditioner
        self.scheduler = model.scheduler
        weights = model.autoencoder.importance.sqrt()
        self.register_buffer("channel_weights", (weights / weights.mean()).clone(), persistent=False)
        counts = {
            "regions": [len(level) for level in dataset.training],
            "validation_regions": [len(level) for level in dataset.validation],
        }
        kind = {"conditioner": type(model.conditioner).__name__, "levels": model.levels}
        data = {"autoencoder": model.autoencoder.fingerprint, **kind, **counts, "seed": dataset.seed}
        self.settings = {"kind": "denoiser", **asdict(config), **model.info, **data}

    def _predict(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.unet(latents, timestep, context).sample.float()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timestep"])
        context = self.conditioner(*(batch[name] for name in sorted(batch) if name.startswith("condition.")))
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
        """The loss on up to 64 held-out regions at 8 evenly spaced timesteps, always with the same noise.

        With several levels that of each, and their mean.
        """
        losses = {k: self._validate(part) for k, part in enumerate(self.dataset.validation) if len(part)}
        of_levels = {f"validation_loss_level_{k}": loss for k, loss in losses.items()}
        mean = {"validation_loss": float(np.mean(list(losses.values())))} if losses else {}
        return mean | (of_levels if len(self.dataset.training) > 1 else {})

    def _validate(self, regions: np.ndarray) -> float:
        latents, context = self._batch(_evenly(regions, 64))
        losses = []
        for timestep in range(62, 1000, 125):
            noise = sample_rng(self.dataset.seed, 2**63 + timestep).standard_normal(latents.shape, np.float32)
            noise, when = torch.from_numpy(noise).to(latents), torch.tensor([timestep], device=latents.device)
            noisy = self.scheduler.add_noise(latents, noise, when)
            parts = zip(noisy.split(16), self._target(latents, noise, when).split(16), context.split(16), strict=True)
            losses += [self._loss(self._predict(x, when, c), target).item() for x, target, c in parts]
        return float(np.mean(losses))

    def _batch(self, regions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Latents and context of regions (N, 2), on the device."""
        latents, condition = self.dataset.batch(regions)
        return latents.to(self.unet.device), self.conditioner(*(part.to(self.unet.device) for part in condition))

    def preview(self, path: Path) -> None:
        """For each level, above: real regions, as the autoencoder gives them; below: sampled from their embeddings."""
        shown = [
            validation if len(validation) >= 8 else training
            for training, validation in zip(self.dataset.training, self.dataset.validation, strict=True)
        ]
        batches = [self._batch(np.resize(_evenly(regions, 8), (8, 2))) for regions in shown]  # few are repeated
        real, context = (torch.cat(parts) for parts in zip(*batches, strict=True))

        def eps(x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
            return to_eps(self._predict(x, timestep, tokens), x, timestep, self.scheduler)

        denoise = guided(eps, self.conditioner.null(1), PREVIEW_GUIDANCE)
        scheduler: DDIMScheduler = make_scheduler("ddim", self.scheduler, PREVIEW_STEPS)
        noise = sample_rng(self.dataset.seed, 2**63).standard_normal(real.shape, np.float32)
        sampled = torch.from_numpy(noise).to(self.unet.device)
        for timestep in scheduler.timesteps:
            predicted = [denoise(x, timestep, c) for x, c in zip(sampled.split(8), context.split(8), strict=True)]
            sampled = scheduler.step(torch.cat(predicted), timestep, sampled).prev_sample
        rows = []
        for above, below in zip(real.split(8), sampled.split(8), strict=True):
            rows += [to_pictures(self.model.autoencoder.decode(x)) for x in (above, below)]
        contact_sheet(np.concatenate(rows), 8, path)

    def export(self, directory: Path) -> None:
        latents, _ = self.dataset.batch(_evenly(self.dataset.training[0], LINEAR_FIT_REGIONS))
        self.model.linear_decoder = fit_linear_decoder(self.model.autoencoder.decode, latents)
        self.model.write(directory, self.dtype, self.encoder)


def _evenly(regions: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` rows, evenly taken."""
    return regions[:: max(1, len(regions) // count)][:count]


def build_model(
    config: DenoiserConfig,
    conditioner: str,
    autoencoder: Autoencoder,
    width: int,
    tile_px: int,
    info: dict[str, Any],
    levels: int = 1,
) -> Model:
    """A model with new weights for embeddings of `width` numbers, tiles of `tile_px` px and so many levels.

    Raises InputError for a size of tiles that the networks cannot halve as often as they do.
    """
    divisor = autoencoder.factor * 2 ** (len(config.channels) - 1)
    if tile_px % divisor:
        raise InputError(f"tiles of {tile_px} px: this autoencoder and preset need a multiple of {divisor} px")
    unet = build_denoiser(config, autoencoder.channels, tile_px // autoencoder.factor)
    form = {"embedding_dim": width, "cross_attention_dim": config.cross_attention_dim}
    if conditioner == "Summarizer":
        form |= {**asdict(config.summarizer), "levels": levels}
    tokens = CONDITIONERS[conditioner](**form)
    return Model(autoencoder, unet, tokens, DDPMScheduler(**NOISE_SCHEDULE, prediction_type=config.prediction), info)


def start_from(model: Model, directory: Path) -> None:
    """Take over the weights of a model directory's denoiser, and of its conditioner if it is of the same kind. Raises
    ModelError where their forms differ."""
    index = read_index(directory)
    if "unet" not in index:
        raise ModelError(f"--init-from {directory}: has no denoiser")
    for name, classes in (("unet", DENOISERS), ("conditioner", CONDITIONERS)):
        own = getattr(model, name)
        if name == "conditioner" and index.get(name) != type(own).__name__:
            log.info("--init-from %s: another kind of conditioner; ours begins anew", directory)
            continue
        try:
            own.load_state_dict(load_network(directory / name, classes, index[name]).state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise ModelError(f"--init-from {directory}: its {name} has another form: {reason}") from error
