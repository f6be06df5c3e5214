"""Options that the training commands share, and how they become a LoopConfig."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="Run directory: checkpoints, metrics, samples, model/.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps in all.")]
GlobalBatch = Annotated[
    int, typer.Option("--batch-size", min=1, help="Samples per optimizer step, over all processes.")
]
Accumulation = Annotated[int, typer.Option("--accumulation", min=1, help="Micro-batches per optimizer step.")]
LearningRate = Annotated[float, typer.Option(min=0.0, help="Learning rate after the warm-up.")]
WarmupSteps = Annotated[int, typer.Option(min=0, help="Steps over which the learning rate rises to it.")]
Schedule = Annotated[
    str, typer.Option("--lr-schedule", help="Of the learning rate after the warm-up: constant or cosine.")
]
WeightDecay = Annotated[float, typer.Option(min=0.0, help="AdamW's weight decay.")]
Clip = Annotated[float, typer.Option("--clip", min=0.0, help="Largest gradient norm; 0 for no clipping.")]
EmaDecay = Annotated[float, typer.Option(min=0.0, max=1.0, help="Decay of the averaged weights, per step.")]
MixedPrecision = Annotated[
    str,
    typer.Option(help="auto, no, bf16 or fp16. auto is what `accelerate launch` says, else the hardware's best."),
]
TrainingWorkers = Annotated[int, typer.Option("--workers", min=0, help="Processes that prepare samples.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between lines of metrics.jsonl.")]
ValidateEvery = Annotated[int, typer.Option(min=1, help="Steps between validations and sample pictures.")]
CheckpointEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
CheckpointsLimit = Annotated[int, typer.Option(min=0, help="How many checkpoints are kept; 0 keeps all.")]
Resume = Annotated[
    str | None,
    typer.Option(help="`latest` (starts anew where there is none) or the path of a checkpoint-N directory."),
]
ValidationFraction = Annotated[
    float,
    typer.Option("--validation", min=0.0, max=0.9, help="Part of the slides' area kept out of training."),
]
Native = Annotated[
    bool, typer.Option("--native", help="Take every slide at its own full resolution, whatever that is.")
]
ExportPrecision = Annotated[str, typer.Option(help="Of the exported weights: fp32, fp16 or bf16.")]


def choose(option: str, value: str | int, allowed: tuple) -> None:
    """Raise an InputError that lists them where `value` is none of `allowed`."""
    from largegen.errors import InputError

    if value not in allowed:
        raise InputError(f"{option} {value}: use one of {', '.join(map(str, allowed))}")


def export_dtype(precision: str):
    """The dtype that `--export-precision` means."""
    choose("--export-precision", precision, ("fp32", "fp16", "bf16"))
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def loop_config(**options):
    """A LoopConfig of the options of the same names; checks the ones that are words."""
    from largegen.training.loop import LoopConfig

    choose("--mixed-precision", options["mixed_precision"], ("auto", "no", "bf16", "fp16"))
    choose("--lr-schedule", options["schedule"], ("constant", "cosine"))
    return LoopConfig(**options)


def open_cohort(paths: list[Path], native: bool, mag, mpp, gsd, source_mpp, source_mag, source_gsd) -> list:
    """Open slides, scenes and directories of them: a list of (Slide, downsample)."""
    from largegen.slide import find_slides, open_slide

    slides = [open_slide(path, source_mpp, source_mag, source_gsd) for path in find_slides(paths)]
    if native:
        return [(slide, 1.0) for slide in slides]
    return [(slide, slide.downsample_for(mag=mag, mpp=mpp, gsd_m=gsd)) for slide in slides]
