"""Distil a model: a student learns to need fewer calls of the denoiser, from the model's own predictions."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from largegen.images.contact_sheet import contact_sheet
from largegen.models.denoiser import TIMESTEPS, to_eps
from largegen.models.model import Model
from largegen.models.pixels import to_images
from largegen.models.student import Changes, StudentInfo, guidance_embedding, save_student, takes_guidance
from largegen.sampling.denoise import Denoise, guided
from largegen.sampling.schedulers import added_noise, make_scheduler
from largegen.training.config import DistillationConfig
from largegen.training.consistency import Predict, TeacherPath, guidance_loss
from largegen.training.dataset import LatentRegions
from largegen.training.sampler import sample_rng
from largegen.training.task import Task

PREVIEW_STEPS = 20  # of the teacher
VALIDATED = 8  # held-out regions


class DistillationTask(Task):
    """Changes of a denoiser's weights that make it a student of itself.

    Target `guidance`: one call predicts what the teacher does under guidance. Targets `steps` and `lcm`: also, few
    calls lead to where the teacher's many lead (see consistency.py).

    Args:
        dataset: Latents and conditions.
        model: The teacher, in fp32, on the device that it will train on.
        config: What is learned.
        info: What the student says of itself.
        dtype: Of the saved weights.
        path: The teacher's, from noise to clean latents.
        accumulation: Micro-batches per optimizer step.
        make_latents: Fills the cache of latents.
    """

    def __init__(
        self,
        dataset: LatentRegions,
        model: Model,
        config: DistillationConfig,
        info: StudentInfo,
        path: TeacherPath,
        dtype: torch.dtype | None = None,
        accumulation: int = 1,
        make_latents: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.dataset, self.config, self.info, self.dtype = dataset, config, info, dtype
        self._make_latents = make_latents
        model.unet = takes_guidance(model.unet)
        self.changes = Changes(model.unet, config.rank)
        self.past = Changes(model.unet, config.rank).requires_grad_(False)
        self.past.load_state_dict(self.changes.state_dict())
        self._kept = config.target_decay ** (1 / accumulation)
        self._teacher_model = (model,)  # not as a part of this module: its weights are in no checkpoint
        self.channel_weights: Tensor
        weights = model.autoencoder.importance.sqrt()
        self.register_buffer("channel_weights", (weights / weights.mean()).clone(), persistent=False)
        counts = {
            "regions": [len(level) for level in dataset.training],
            "validation_regions": [len(level) for level in dataset.validation],
        }
        kind = {"kind": f"student of {info.teacher} {info.teacher_checksum}"}
        self.settings = {**kind, **asdict(config), **asdict(info), **counts, "levels": model.levels}
        self.path = path
        self._teacher_row: np.ndarray | None = None
        self._ends: Tensor | None = None

    @property
    def model(self) -> Model:
        """The teacher."""
        return self._teacher_model[0]

    def prepare(self) -> None:
        """Fill the cache of latents."""
        self._make_latents()

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a batch; it has no parts."""
        if self.training:
            self._follow()
        context, null = self._contexts(batch)
        low, high = self.info.guidance
        scale = low + (high - low) * batch["fraction"].float()
        student, teacher = self._student_under(self.changes, context, scale), self._teacher_under(context, null, scale)
        samples = batch["latents"], batch["noise"], batch["timestep"]
        if self.config.target == "guidance":
            losses = guidance_loss(self.model.scheduler, student, teacher, *samples)
        else:
            losses = self.path.loss(student, self._student_under(self.past, context, scale), teacher, *samples)
        return (losses * self.channel_weights).mean(), {}

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average of past weights towards the present ones."""
        for past, present in zip(self.past.parameters(), self.changes.parameters(), strict=True):
            past.lerp_(present, 1 - self._kept)

    @torch.no_grad()
    def _contexts(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        conditioner = self.model.conditioner
        context = conditioner(*(batch[name] for name in sorted(batch) if name.startswith("condition.")))
        return context, conditioner.null(1).expand_as(context)

    def _student_under(self, changes: Changes, context: Tensor, scale: Tensor) -> Predict:
        unet = self.model.unet

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            inputs = {"timestep_cond": guidance_embedding(scale).to(noisy)}
            output: Tensor = functional_call(unet, changes.applied(unet), (noisy, timestep, context), inputs).sample
            return output.float()

        return predict

    def _teacher_under(self, context: Tensor, null: Tensor, scale: Tensor) -> Predict:
        contexts = torch.cat([null, context])

        @torch.no_grad()
        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            both = (torch.cat([part, part]) for part in (noisy, timestep))
            without, under = self.model.unet(*both, contexts).sample.float().chunk(2)
            return without + scale[:, None, None, None] * (under - without)

        return predict

    def validate(self) -> dict[str, float]:
        """Compute how far from the teacher the student is on 8 held-out regions, from 8 points of its path.

        For the targets `steps` and `lcm`: from where the teacher's path ends, after all its steps.
        """
        regions = self.dataset.validation[0]
        if not len(regions):
            return {}
        latents, condition = self.dataset.batch(np.resize(_evenly(regions, VALIDATED), (VALIDATED, 2)))
        device, rng = self.model.device, sample_rng(self.dataset.seed, 2**63)
        latents = latents.to(device)
        context, null = self._contexts({f"condition.{i}": part.to(device) for i, part in enumerate(condition)})
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32)).to(device)
        scale = torch.from_numpy(rng.uniform(*self.info.guidance, VALIDATED)).float().to(device)
        at = (torch.arange(VALIDATED, device=device) * TIMESTEPS + TIMESTEPS // 2) // VALIDATED
        student, teacher = self._student_under(self.changes, context, scale), self._teacher_under(context, null, scale)
        if self.config.target == "guidance":
            losses = guidance_loss(self.model.scheduler, student, teacher, latents, noise, at)
            return {"validation_loss": losses.mean().item()}
        start, noisy, end = self.path.point(latents, noise, at)
        if self._ends is None:  # the teacher's stay the same
            self._ends = self.path.follow(teacher, noisy, start, end)
        arrived = self.path.move(student(noisy, start), noisy, start, end)
        return {"validation_distance": (arrived - self._ends).square().mean().sqrt().item()}

    def preview(self, path: Path) -> None:
        """Draw regions as the autoencoder gives them; the teacher's samples of them; and the student's."""
        regions = self.dataset.validation[0] if len(self.dataset.validation[0]) >= 8 else self.dataset.training[0]
        latents, condition = self.dataset.batch(np.resize(_evenly(regions, 8), (8, 2)))
        batch = {f"condition.{i}": part.to(self.model.device) for i, part in enumerate(condition)}
        context, _ = self._contexts(batch)
        low, high = self.info.guidance
        scale = min(max(1.5, low), high)
        decode = self.model.autoencoder.decode
        if self._teacher_row is None:
            denoise = guided(self.model.eps, self.model.null_context(), scale)
            sampled = self._sample(denoise, context, "ddim", PREVIEW_STEPS)
            self._teacher_row = np.concatenate([to_images(decode(x)) for x in (latents.to(self.model.device), sampled)])
        steps = self.info.steps or PREVIEW_STEPS
        scheduler = self.info.scheduler or "ddim"

        def own(x: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
            scales = torch.full((len(x),), scale, device=x.device)
            output = self._student_under(self.changes, tokens, scales)(x, timestep.to(x.device).expand(len(x)))
            return to_eps(output, x, timestep, self.model.scheduler)

        row = to_images(decode(self._sample(own, context, scheduler, steps, self.info.timesteps)))
        contact_sheet(np.concatenate([self._teacher_row, row]), 8, path)

    def _sample(
        self, denoise: Denoise, context: Tensor, name: str, steps: int, timesteps: tuple[int, ...] = ()
    ) -> Tensor:
        """Sample latents (N, C, h, w) under a context (N, tokens, D), always from the same noise."""
        scheduler = make_scheduler(name, self.model.scheduler, steps, timesteps)
        shape = (len(context), self.model.autoencoder.channels, self.model.window, self.model.window)
        rng = sample_rng(self.dataset.seed, 2**63)

        def normal() -> Tensor:
            return torch.from_numpy(rng.standard_normal(shape, np.float32)).to(self.model.device)

        sampled = normal()
        for timestep in scheduler.timesteps:
            eps = denoise(sampled, timestep, context)
            sampled = scheduler.step(eps, timestep, sampled, **added_noise(scheduler, 0.0, normal)).prev_sample
        return sampled

    def export(self, directory: Path) -> None:
        """Write the teacher's model directory with the student in it."""
        assert self.model.directory is not None, "the teacher was loaded from there"
        save_student(directory, self.model.directory, self.info, self.changes, self.dtype)


def _evenly(regions: np.ndarray, count: int) -> np.ndarray:
    """Take up to `count` rows, evenly taken."""
    return regions[:: max(1, len(regions) // count)][:count]
