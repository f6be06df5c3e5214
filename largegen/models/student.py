"""A model's distilled form, the student: changes of its denoiser's weights, and the guidance scale as an input."""

import copy
import shutil
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from safetensors import SafetensorError
from torch import Tensor, nn

from largegen.errors import InputError, ModelError
from largegen.models.denoiser import to_eps
from largegen.models.storage import load_tensors, save_tensors
from largegen.runtime.files import not_damaged, read_if_there, write_json
from largegen.runtime.fingerprints import network_checksum

FOLDER = "fast"  # of a student, in the directory of its teacher
ABOUT, WEIGHTS = "student.json", "changes.safetensors"
GUIDANCE_DIM = 256  # of the sinusoids of the guidance scale
GUIDANCE_FREQUENCY = 10.0  # radians of the fastest of them for 1 of the scale
GUIDANCE = "time_embedding.cond_proj.weight"  # diffusers' name of the layer that takes them


@dataclass(frozen=True)
class StudentInfo:
    """What a student says of itself: the content of student.json."""

    guidance: tuple[float, float]  # the scales that it knows, both ends included
    rank: int  # of its changes
    teacher: str  # name of the model that it was distilled from
    teacher_checksum: str  # of that model's denoiser
    licence: str = ""  # of its weights: that of its teacher
    scheduler: str = ""  # that it is made for; "": any
    steps: int = 0  # that it is made for; 0: as many as its teacher
    timesteps: tuple[int, ...] = ()  # of these steps; none: those that its scheduler lays
    trained_on: tuple[str, ...] = ()  # names of slides and scenes
    weights: str = ""  # checksum of its changes
    largegen_version: str = ""

    def check_guidance(self, scale: float) -> None:
        """Raise InputError for a guidance scale that it does not know."""
        low, high = self.guidance
        if not low <= scale <= high:
            raise InputError(
                f"`guidance` {scale:g}: the distilled model knows {low:g} to {high:g}; `distilled=False` takes the"
                " model itself"
            )

    @classmethod
    def load(cls, directory: Path) -> "StudentInfo | None":
        """Read that of a model directory's student; None where there is none. Raises ModelError for a damaged one."""
        return read_if_there(directory / FOLDER / ABOUT, cls._of)

    @classmethod
    def _of(cls, said: dict[str, Any]) -> "StudentInfo":
        values = {f.name: value for f in fields(cls) if (value := said.get(f.name))}
        (low, high), lists = values["guidance"], ("trained_on", "timesteps")
        values |= {name: tuple(values.get(name, ())) for name in lists}
        return cls(**values | {"guidance": (float(low), float(high))})


class Changes(nn.Module):
    """Changes to the weights of a U-Net, which begin as none at all.

    Of a matrix or a convolution it is the product of two narrow matrices (LoRA, Hu et al. 2022), unless that would be
    as large as the whole; of all other weights it is as large as they are.

    Args:
        unet: Whose weights are changed.
        rank: Of the products; 0 for whole changes everywhere.
    """

    def __init__(self, unet: UNet2DConditionModel, rank: int):
        super().__init__()
        self.down, self.up, self.whole = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, weight in unet.named_parameters():
            key, rows, columns = _key(name), weight.shape[0], weight[0].numel()
            if weight.ndim > 1 and 0 < rank * (rows + columns) < rows * columns:
                self.down[key] = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
                self.up[key] = nn.Parameter(torch.zeros(rows, rank))
            elif name != GUIDANCE:
                self.whole[key] = nn.Parameter(torch.zeros_like(weight, memory_format=torch.contiguous_format))
        self.whole[_key(GUIDANCE)] = nn.Parameter(torch.zeros(unet.config.block_out_channels[0], GUIDANCE_DIM))

    def applied(self, unet: nn.Module) -> dict[str, Tensor]:
        """Return the changed weights by their names, for `unet`'s forward or its state."""
        changed = {}
        for name, weight in unet.named_parameters():
            key = _key(name)
            change = self.whole[key] if key in self.whole else self.up[key] @ self.down[key]
            changed[name] = weight + change.to(weight).reshape(weight.shape)
        return changed


def _key(name: str) -> str:
    return name.replace(".", "/")  # a dot divides modules


def takes_guidance(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of a denoiser with a layer for the guidance scale, of zeros. Raises ModelError where it has one."""
    if unet.config.time_cond_proj_dim:
        raise ModelError("the denoiser takes a guidance scale already: it is distilled")
    unet = copy.deepcopy(unet)
    layer = nn.Linear(GUIDANCE_DIM, unet.config.block_out_channels[0], bias=False)
    nn.init.zeros_(layer.weight)
    unet.time_embedding.cond_proj = layer.to(unet.device, unet.dtype)
    unet.register_to_config(time_cond_proj_dim=GUIDANCE_DIM)
    return unet


def guidance_embedding(scale: Tensor) -> Tensor:
    """Embed guidance scales (B,) as sinusoids (B, 256)."""
    embedding: Tensor = get_timestep_embedding(scale.float() * GUIDANCE_FREQUENCY, GUIDANCE_DIM)
    return embedding


class Student:
    """A model's distilled denoiser: one call predicts the noise under guidance.

    Attributes:
        info: What it is good for.
        unet: The teacher's denoiser with other weights, and a layer for the guidance scale.
    """

    def __init__(self, info: StudentInfo, unet: UNet2DConditionModel, scheduler: DDPMScheduler):
        self.info, self.unet, self.scheduler = info, unet, scheduler

    @classmethod
    def load(cls, directory: Path, info: StudentInfo, teacher: UNet2DConditionModel, scheduler: DDPMScheduler) -> Self:
        """Read what `save_student` wrote.

        Args:
            directory: Of the teacher.
            info: Of the student.
            teacher: The teacher's denoiser, as it was saved (fp32).
            scheduler: The teacher's noise schedule.

        Raises:
            ModelError: Its weights are missing, damaged, or changes of another model's.
        """
        path = directory / FOLDER / WEIGHTS
        if network_checksum(teacher) != info.teacher_checksum:
            raise ModelError(f"{path}: was distilled from another model, {info.teacher}")
        unet = takes_guidance(teacher)
        changes = Changes(unet, info.rank)
        try:
            changes.load_state_dict({name: value.float() for name, value in load_tensors(path).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            not_damaged(error, path)
            raise ModelError(f"{path}: missing or damaged: {str(error).splitlines()[0]}") from error
        with torch.no_grad():
            unet.load_state_dict(changes.applied(unet))
        return cls(info, unet.eval().requires_grad_(False), scheduler)

    def under(self, scale: float) -> "GuidedStudent":
        """Return the noise prediction under a guidance scale. Raises InputError for one that it does not know."""
        self.info.check_guidance(scale)
        return GuidedStudent(self, scale)


@dataclass(frozen=True)
class GuidedStudent:
    """A student under one guidance scale."""

    student: Student
    scale: float

    @cached_property
    def _embedding(self) -> Tensor:
        return guidance_embedding(torch.tensor([self.scale]))

    @torch.inference_mode()
    def __call__(self, latents: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """Predict the noise of noisy latents: takes and returns what `Model.eps` does."""
        unet = self.student.unet
        weight = next(unet.parameters())
        latents = latents.to(weight.device)
        inputs = latents.to(weight.dtype, memory_format=torch.channels_last)
        scale = self._embedding.to(weight).expand(len(latents), -1)
        output = unet(inputs, timestep, context.to(weight), timestep_cond=scale).sample
        return to_eps(output, latents, timestep, self.student.scheduler)


def save_student(
    directory: Path, teacher: Path, info: StudentInfo, changes: Changes, dtype: torch.dtype | None = None
) -> None:
    """Write a copy of the teacher's model directory with a student in it.

    Args:
        directory: The copy.
        teacher: The teacher's.
        info: What the student says of itself.
        changes: Its weights.
        dtype: Of the weights as they are saved; None: as they are.
    """
    shutil.copytree(teacher, directory, ignore=lambda folder, names: {FOLDER} if Path(folder) == teacher else set())
    (directory / FOLDER).mkdir()
    write_json(directory / FOLDER / ABOUT, asdict(replace(info, weights=network_checksum(changes))))
    weights = {name: value.to(dtype or value.dtype).cpu().contiguous() for name, value in changes.state_dict().items()}
    save_tensors(weights, directory / FOLDER / WEIGHTS)
