"""Train the conditional latent diffusion model: its loss, and how good it is on what was held out."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from largegen.images.contact_sheet import contact_sheet
from largegen.models.denoiser import DenoiserConfig, to_eps
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.model import Model
from largegen.models.pixels import to_images
from largegen.sampling.denoise import guided
from largegen.sampling.schedulers import make_scheduler
from largegen.training.dataset import LatentRegions
from largegen.training.sample_metrics import SampleMetrics
from largegen.training.sampler import sample_rng
from largegen.training.task import Task

LINEAR_FIT_REGIONS = 64  # that the linear decoder of the model is fitted on
PREVIEW_STEPS, PREVIEW_GUIDANCE = 20, 2.0


class DiffusionTask(Task):
    """The denoiser and the conditioner; the loss is the error of what it predicts at a uniform timestep [L, Z].

    Latent channels count by the root of their importance to the image, where the autoencoder knows it: a small
    network spends itself on layout and colour before the finest detail.
    """

    def __init__(
        self,
        dataset: LatentRegions,
        model: Model,
        config: DenoiserConfig,
        encoder: Path | None,
        dtype: torch.dtype | None = None,
        sample_metrics: SampleMetrics | None = None,
        encode: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self._encode = encode
        self.dataset, self.model, self.encoder, self.dtype, self.sample_metrics = (
            dataset,
            model,
            encoder,
            dtype,
            sample_metrics,
        )
        self.eval_every = sample_metrics.every if sample_metrics else 0
        self.unet, self.conditioner = model.unet, model.conditioner
        self.scheduler = model.scheduler
        weights = model.autoencoder.importance.sqrt()
        self.register_buffer("channel_weights", (weights / weights.mean()).clone(), persistent=False)
        counts = {
            "regions": [len(level) for level in dataset.training],
            "validation_regions": [len(level) for level in dataset.validation],
        }
        kind = {"conditioner": type(model.conditioner).__name__, "levels": model.levels}
        kind |= {"prediction": model.scheduler.config.prediction_type}  # that of `init_from`, if any
        data = {"autoencoder": model.autoencoder.fingerprint, **kind, **counts, "seed": dataset.seed}
        self.settings = {"kind": "denoiser", **asdict(config), **model.info.as_dict(), **data}

    def prepare(self) -> None:
        """Encode the regions' latents into the cache."""
        self._encode()

    def _predict(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.unet(latents, timestep, context).sample.float()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch; it has no parts."""
        noisy = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timestep"])
        context = self.conditioner(*(batch[name] for name in sorted(batch) if name.startswith("condition.")))
        context = torch.where(batch["drop"][:, None, None], self.conditioner.null(1), context)
        target = self._target(batch["latents"], batch["noise"], batch["timestep"])
        return self._loss(self._predict(noisy, batch["timestep"], context), target), {}

    def _loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target).square() * self.channel_weights).mean()

    def _target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Return what the network should give: the noise, x0, or v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans & Ho 2022).

        At high noise v tells x0 rather than eps, so that a small network learns colour and layout soon.
        """
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timestep)
        return latents if self.scheduler.config.prediction_type == "sample" else noise

    def validate(self) -> dict[str, float]:
        """Compute the loss on up to 64 held-out regions at 8 evenly spaced timesteps, always with the same noise.

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
        """Read latents and context of regions (N, 2), on the device."""
        latents, condition = self.dataset.batch(regions)
        return latents.to(self.unet.device), self.conditioner(*(part.to(self.unet.device) for part in condition))

    def preview(self, path: Path) -> None:
        """Draw for each level, above: real regions, as the autoencoder gives them; below: samples of them."""
        shown = [
            validation if len(validation) >= 8 else training
            for training, validation in zip(self.dataset.training, self.dataset.validation, strict=True)
        ]
        batches = [self._batch(np.resize(_evenly(regions, 8), (8, 2))) for regions in shown]  # few are repeated
        real, context = (torch.cat(parts) for parts in zip(*batches, strict=True))

        rows = []
        for above, below in zip(real.split(8), self._sample(context).split(8), strict=True):
            rows += [to_images(self.model.autoencoder.decode(x)) for x in (above, below)]
        contact_sheet(np.concatenate(rows), 8, path)

    def evaluate(self) -> dict[str, float]:
        """Compute the sample metrics of each level with at least two held-out regions.

        Samples are compared with the regions as the autoencoder gives them, so that its own loss does not count.
        """
        assert self.sample_metrics is not None, "eval_every is 0 without them"
        found: dict[str, float] = {}
        for level, regions in enumerate(self.dataset.validation):
            if len(regions) < 2:
                continue
            real, context = self._batch(_evenly(regions, self.sample_metrics.samples))
            images = [
                np.concatenate([to_images(self.model.autoencoder.decode(x)) for x in latents.split(8)])
                for latents in (real, self._sample(context))
            ]
            of_level = f"_level_{level}" if len(self.dataset.validation) > 1 else ""
            found |= {name + of_level: value for name, value in self.sample_metrics.figures(*images).items()}
        return found

    def _sample(self, context: Tensor) -> Tensor:
        """Sample latents (N, C, h, w) under a context (N, tokens, D), always from the same noise."""

        def eps(x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
            return to_eps(self._predict(x, timestep, tokens), x, timestep, self.scheduler)

        denoise = guided(eps, self.conditioner.null(1), PREVIEW_GUIDANCE)
        scheduler: DDIMScheduler = make_scheduler("ddim", self.scheduler, PREVIEW_STEPS)
        shape = (len(context), self.model.autoencoder.channels, self.model.window, self.model.window)
        noise = sample_rng(self.dataset.seed, 2**63).standard_normal(shape, np.float32)
        sampled = torch.from_numpy(noise).to(self.unet.device)
        for timestep in scheduler.timesteps:
            predicted = [denoise(x, timestep, c) for x, c in zip(sampled.split(8), context.split(8), strict=True)]
            sampled = scheduler.step(torch.cat(predicted), timestep, sampled).prev_sample
        return sampled

    def export(self, directory: Path) -> None:
        """Write the model directory, with the linear decoder trained on some of the regions."""
        latents, _ = self.dataset.batch(_evenly(self.dataset.training[0], LINEAR_FIT_REGIONS))
        self.model.linear_decoder = fit_linear_decoder(self.model.autoencoder.decode, latents)
        self.model.write(directory, self.dtype, self.encoder)


def _evenly(regions: np.ndarray, count: int) -> np.ndarray:
    """Take up to `count` rows, evenly taken."""
    return regions[:: max(1, len(regions) // count)][:count]
