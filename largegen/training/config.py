"""Every setting of training: of the loop, and of each network. Imports nothing heavy, as options are made of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from largegen.errors import InputError
from largegen.runtime.setting import SEED, Setting
from largegen.sampling.settings import MAX_STUDENT_STEPS

DENOISER_PRESETS = ("published", "starter", "tiny")
CONDITIONERS = ("patch", "summarizer")
ORIENTATIONS = (1, 2, 4, 8)
LR_SCHEDULES = ("constant", "cosine")
MIXED_PRECISIONS = ("auto", "no", "bf16", "fp16")
TARGETS = ("steps", "lcm", "guidance")  # of distillation
HEAD_WIDTH = 64  # of the attention of a grid prior

HELD_OUT = Setting("Fraction of the slides' area that is kept out of training.", min=0.0, max=0.9)
RECURSIVE = Setting("Search directories with all folders below them.")


def check_choice(name: str, value: str | int, allowed: tuple[object, ...]) -> None:
    """Raise InputError, naming the parameter, unless a value is one of those allowed."""
    if value not in allowed:
        raise InputError(f"`{name}` {value}: use one of {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class LoopConfig:
    """How a network is trained, whichever it is."""

    steps: Annotated[int, Setting("Optimizer steps in all.", min=1)] = 10_000
    # shared by all processes and accumulation steps
    batch_size: Annotated[int, Setting("Samples per optimizer step, over all processes.", min=1)] = 32
    accumulation: Annotated[int, Setting("Micro-batches per process and optimizer step.", min=1)] = 1
    learning_rate: Annotated[float, Setting("Learning rate after the warm-up.", min=0.0)] = 1e-4
    warmup_steps: Annotated[int, Setting("Steps over which the learning rate rises to it.", min=0)] = 1000
    schedule: Annotated[str, Setting("Learning rate after the warm-up: constant or cosine (to zero).")] = "constant"
    weight_decay: Annotated[float, Setting("AdamW's weight decay.", min=0.0)] = 0.01
    clip: Annotated[float, Setting("Largest gradient norm; 0 for no clipping.", min=0.0)] = 1.0
    ema_decay: Annotated[
        float, Setting("Decay of the averaged weights, per step; it is reached gradually.", min=0.0, max=1.0)
    ] = 0.9999
    mixed_precision: Annotated[
        str,
        Setting(
            "auto, no (fp32), bf16 or fp16. auto is bf16 or fp16 if `accelerate launch` says so, else the hardware's"
            " best."
        ),
    ] = "auto"
    device: Annotated[str, Setting("auto, cpu, cuda, cuda:N or mps.")] = "auto"
    minutes: Annotated[
        float,
        Setting(
            "Stop after so many minutes, as if all steps were done; a later --resume goes on.",
            min=0.0,
            unset="no limit",
        ),
    ] = 0.0
    seed: Annotated[int, SEED] = 0
    workers: Annotated[int, Setting("Processes that prepare samples.", min=0)] = 2
    log_every: Annotated[int, Setting("Steps between lines of metrics.jsonl.", min=1)] = 10
    validate_every: Annotated[int, Setting("Steps between validations and sample images.", min=1)] = 500
    checkpoint_every: Annotated[int, Setting("Steps between checkpoints.", min=1)] = 500
    checkpoints_limit: Annotated[int, Setting("How many checkpoints are kept; 0 keeps all.", min=0)] = 2
    resume: Annotated[
        str | None, Setting("`latest` (starts over where there is none) or the path of a checkpoint-N directory.")
    ] = None
    overwrite: Annotated[bool, Setting("Replace an existing output.")] = False

    def __post_init__(self) -> None:
        """Check what has a list of choices."""
        check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)
        check_choice("schedule", self.schedule, LR_SCHEDULES)


@dataclass(frozen=True)
class CohortConfig:
    """What a denoiser is trained on, and its architecture."""

    embeddings: tuple[Path, ...] = ()  # embedding files, or directories of them
    recursive: Annotated[bool, RECURSIVE] = False
    vae: Annotated[str, Setting("Autoencoder: a model, run or diffusers directory, or `starter`.")] = "starter"
    slides: Annotated[
        Path | None, Setting("Directory of the slides, if they are no longer where they were embedded.")
    ] = None
    preset: Annotated[str, Setting("Size of the denoiser: published (401 M parameters), starter or tiny.")] = "starter"
    conditioner: Annotated[
        str, Setting("What turns embeddings into context: patch, or summarizer for several levels.")
    ] = "patch"
    levels: Annotated[
        int,
        Setting(
            "Magnifications to learn, each half the one before: 5 is 20x to 1.25x.",
            min=0,
            max=8,
            unset="5 with the summarizer, else 1",
        ),
    ] = 0
    init_from: Annotated[str | None, Setting("Start from the weights of this model of the same architecture.")] = None
    orientations: Annotated[
        int, Setting("Orientations of each region: 1 as it is, 2 or 4 also flipped, 8 also turned by 90 degrees.")
    ] = 4
    cache: Annotated[Path | None, Setting("Directory of the computed latents.", unset="<out>/latents")] = None
    held_out: Annotated[float, HELD_OUT] = 0.05
    eval_every: Annotated[
        int,
        Setting(
            "Steps between evaluations of samples of held-out regions: their Fréchet distance (fd:ENCODER) and their"
            " similarity to the real ones go to metrics.jsonl; 0 for none.",
            min=0,
        ),
    ] = 0
    eval_samples: Annotated[int, Setting("Regions of each level to sample then, at most.", min=2)] = 128
    eval_encoder: Annotated[
        str | None,
        Setting(
            "Encoder that compares them. A name from `largegen encoders`, a timm model name, hf-hub:ORG/NAME or"
            " local-dir:DIR.",
            unset="the embeddings' own",
        ),
    ] = None
    encoder_weights: Annotated[
        Path | None,
        Setting("Encoder's weights from a .safetensors, .pth or .bin file: offline, or where no hub has them."),
    ] = None
    name: Annotated[str, Setting("Name of the model.", unset="the run directory's")] = ""
    licence: Annotated[str, Setting("Licence of the model's weights.", unset="the encoder's and --init-from's")] = ""
    export_precision: Annotated[str, Setting("Precision of the exported weights: fp32, fp16 or bf16.")] = "fp32"

    def resolve(self, out: Path) -> "CohortConfig":
        """Check the settings, and fill in what follows from others and from the run directory.

        Raises:
            InputError: a setting is none of its choices, or the conditioner knows one level only.
        """
        check_choice("preset", self.preset, DENOISER_PRESETS)
        check_choice("conditioner", self.conditioner, CONDITIONERS)
        check_choice("orientations", self.orientations, ORIENTATIONS)
        levels = self.levels or (5 if self.conditioner == "summarizer" else 1)
        if levels > 1 and self.conditioner == "patch":
            raise InputError(f"`levels` {levels}: the patch conditioner knows one; use `conditioner=summarizer`")
        name, cache = self.name or out.absolute().name, self.cache or out / "latents"
        return replace(self, levels=levels, name=name, cache=cache)


@dataclass(frozen=True)
class DistillationConfig:
    """What a model's student learns, and from what."""

    embeddings: tuple[Path, ...] = ()  # embedding files, or directories of them
    recursive: Annotated[bool, RECURSIVE] = False
    target: Annotated[
        str,
        Setting(
            "What it learns: guidance (in one call, in as many steps as before), steps (also `few` of them, by DDIM) or"
            " lcm (also any few of them, by latent consistency: the longest to learn)."
        ),
    ] = "steps"
    few: Annotated[
        int, Setting("Steps that it samples in: with the target lcm, by default.", min=1, max=MAX_STUDENT_STEPS)
    ] = 4
    guidance_min: Annotated[float, Setting("Smallest guidance scale that it knows.", min=0.0)] = 1.0
    guidance_max: Annotated[float, Setting("Largest guidance scale that it knows.", min=0.0)] = 4.0
    rank: Annotated[
        int, Setting("Rank of the changes to a layer (LoRA); 0 changes weights as a whole: a larger file.", min=0)
    ] = 32
    images: Annotated[
        bool,
        Setting(
            "Learn from the model's own samples of the regions (20 steps, made once), not from images: embeddings are"
            " enough."
        ),
    ] = True
    target_decay: float = 0.95  # of the average of past weights that the student follows
    slides: Annotated[
        Path | None, Setting("Directory of the slides, if they are no longer where they were embedded.")
    ] = None
    orientations: Annotated[
        int, Setting("Orientations of each region: 1 as it is, 2 or 4 also flipped, 8 also turned by 90 degrees.")
    ] = 2
    regions: Annotated[
        int, Setting("Regions to learn from, at most, of each file at each magnification, evenly taken.", min=1)
    ] = 100
    finest: Annotated[float, Setting("Part of the samples that are of the finest magnification.", min=0.0, max=1.0)] = (
        0.6
    )
    cache: Annotated[Path | None, Setting("Directory of the computed latents.", unset="<out>/latents")] = None
    held_out: Annotated[float, HELD_OUT] = 0.05
    export_precision: Annotated[str, Setting("Precision of the exported weights: fp32, fp16 or bf16.")] = "fp16"

    def __post_init__(self) -> None:
        """Check what goes together.

        Raises:
            InputError: A setting is none of its choices, or the range of guidance is empty.
        """
        check_choice("target", self.target, TARGETS)
        check_choice("orientations", self.orientations, ORIENTATIONS)
        if not self.guidance_min <= self.guidance_max:
            raise InputError(f"`guidance_max` {self.guidance_max:g}: less than `guidance_min` {self.guidance_min:g}")


@dataclass(frozen=True)
class AutoencoderConfig:
    """The autoencoder's architecture and loss."""

    local: bool = True  # a LocalAutoencoder, which leaves no lattice and no drift of colour; else a ResidualAutoencoder
    patch_px: int = 2  # side of the squares of pixels that the convolutions see as channels
    channels: tuple[int, ...] = (
        48,
        96,
        160,
    )  # one per halving but the last: 3 and squares of 2 px give 8 px per latent
    layers: int = 1  # residual blocks per level (one more in the decoder) of a ResidualAutoencoder
    latent_channels: Annotated[int, Setting("Latent channels.", min=0, unset="the preset's")] = 16
    crop_px: Annotated[int, Setting("Side of the training crops.", min=0, unset="the preset's")] = 128
    kl_weight: float = 1e-6
    perceptual_weight: Annotated[float, Setting("Weight of the structural term, 1 - SSIM.", min=0.0)] = 0.2
    perceptual: Annotated[
        float,
        Setting("Weight of ST-LPIPS, a distance in VGG16's features; 0 for none. Needs largegen[perceptual].", min=0.0),
    ] = 0.0
    levels: Annotated[
        int, Setting("Resolutions that crops are taken at, each half the one before: 3 adds 1/2 and 1/4.", min=1, max=8)
    ] = 1
    held_out: Annotated[float, HELD_OUT] = 0.05

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return self.patch_px * 2 ** (len(self.channels) - 1)

    def with_preset(self, name: str) -> "AutoencoderConfig":
        """Take the architecture from a preset, and of `latent_channels` and `crop_px` what is 0 here."""
        check_choice("preset", name, tuple(AUTOENCODER_PRESETS))
        preset = AUTOENCODER_PRESETS[name]
        return replace(
            self,
            local=preset.local,
            patch_px=preset.patch_px,
            channels=preset.channels,
            latent_channels=self.latent_channels or preset.latent_channels,
            crop_px=self.crop_px or preset.crop_px,
        )


AUTOENCODER_PRESETS = {
    "starter": AutoencoderConfig(),
    "residual": AutoencoderConfig(local=False, patch_px=4, channels=(64, 128), latent_channels=24),
    "tiny": AutoencoderConfig(local=False, patch_px=4, channels=(8, 16), latent_channels=4, crop_px=64),
}


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder's architecture and loss."""

    architecture: Annotated[str, Setting("Any timm model name.")] = "resnet10t"
    width: Annotated[int, Setting("Dimension of the embedding.", min=8)] = 256
    tile_px: Annotated[int, Setting("Side of the tiles that it will see.", min=32)] = 256
    input_px: Annotated[int, Setting("Side that tiles are resized to for the network.", min=32)] = 128
    shift_px: int = 128  # largest distance between two crops of one sample, in each direction
    temperature: float = 0.1
    held_out: Annotated[float, HELD_OUT] = 0.05
    licence: Annotated[str, Setting("Licence of the weights; whatever they make carries it.")] = "Apache-2.0"


@dataclass(frozen=True)
class PriorConfig:
    """What a grid prior is trained on, and its architecture."""

    embeddings: tuple[Path, ...] = ()  # embedding files, or directories of them
    recursive: Annotated[bool, RECURSIVE] = False
    labels: Annotated[Path | None, Setting("CSV with the columns `file` and `label`.")] = None
    captions: Annotated[
        Path | None, Setting("CSV with the columns `file` and `caption`; several rows of a file are several captions.")
    ] = None
    text_encoder: Annotated[
        str, Setting("What reads captions and prompts: minilm, or a name of open_clip's. Needs largegen[text].")
    ] = "minilm"
    clip_model: Annotated[
        str | None,
        Setting(
            "Learn from the image vectors of this vision-language model, so that text needs no captions: a name of"
            " open_clip's with its weights (ViT-B-32/openai), hf-hub:ORG/NAME or local-dir:DIR. Needs largegen[text]."
        ),
    ] = None
    slides: Annotated[
        Path | None, Setting("Directory of the slides, if they are no longer where they were embedded.")
    ] = None
    window: Annotated[
        int, Setting("Side of the grids that the network sees, in tiles.", min=0, unset="16, or the largest grid's")
    ] = 0
    components: Annotated[int, Setting("Principal components of the embeddings that are modelled.", min=2)] = 128
    width: Annotated[int, Setting("Width of the network, a multiple of 64.", min=64)] = 384
    layers: Annotated[int, Setting("Layers of the network.", min=1)] = 12
    turned: Annotated[
        bool, Setting("Also turn and mirror grids, though their embeddings stay as they are: for few slides.")
    ] = False
    held_out: Annotated[float, HELD_OUT] = 0.05
    name: Annotated[str, Setting("Name of the prior.", unset="the run directory's")] = ""
    licence: Annotated[str, Setting("Licence of the prior's weights.", unset="the encoder's")] = ""
    export_precision: Annotated[str, Setting("Precision of the exported weights: fp32, fp16 or bf16.")] = "fp32"

    def __post_init__(self) -> None:
        """Check what has few choices.

        Raises:
            InputError: Captions and image vectors are both asked for, or the width cannot be divided among heads.
        """
        if self.captions and self.clip_model:
            raise InputError("`captions`, `clip_model`: give only one of them; both say what a region shows")
        if self.width % HEAD_WIDTH:
            raise InputError(f"`width` {self.width}: must be a multiple of {HEAD_WIDTH}")
