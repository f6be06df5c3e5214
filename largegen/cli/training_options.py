"""Options that the training commands share, and what they do with them: train, or say what they would train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import options as shared
from largegen.slides.resolution import Target

if TYPE_CHECKING:
    from largegen.slides.slide import Slide
    from largegen.training.config import LoopConfig
    from largegen.training.loop import Task


DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", "-n", help="Do nothing; print the effective settings, tiles, parameters and disk as JSON."
    ),
]
Validation = Annotated[
    float, typer.Option(min=0.0, max=0.9, help="Part of the slides' area that is kept out of training.")
]
Native = Annotated[
    bool, typer.Option("--native", help="Take every slide at its own full resolution, whatever that is.")
]
ExportPrecision = Annotated[str, typer.Option(help="Of the exported weights: fp32, fp16 or bf16.")]


@dataclass(frozen=True)
class Run:
    """A run of the training loop, as the command line asks for it."""

    out: Path  # run directory
    config: "LoopConfig"
    dry_run: bool  # only say what would be done
    json: bool  # report as JSON

    def fit(self, task: "Task", result: str) -> None:
        """Train `task` and report it with `result`, a text with `{model}` in it for the trained model's directory."""
        from accelerate import PartialState

        from largegen.training.loop import fit, plan

        report = plan(task, self.out, self.config) if self.dry_run else fit(task, self.out, self.config)
        if not PartialState().is_main_process:
            return
        if self.dry_run or self.json:
            shared.print_json(report)
        else:
            typer.echo(f"{report['model']}: {result.format(**report)}")


def _options(
    out: Annotated[Path, typer.Option(help="Run directory: checkpoints, metrics, samples, model/.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps in all.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per optimizer step, over all processes.")],
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Learning rate after the warm-up.")],
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps over which the learning rate rises to it.")],
    schedule: Annotated[
        str, typer.Option("--lr-schedule", help="Of the learning rate after the warm-up: constant or cosine.")
    ],
    ema_decay: Annotated[float, typer.Option(min=0.0, max=1.0, help="Decay of the averaged weights, per step.")],
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations and sample images.")],
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")],
    accumulation: Annotated[int, typer.Option(min=1, help="Micro-batches per optimizer step.")] = 1,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="AdamW's weight decay.")] = 0.01,
    clip: Annotated[float, typer.Option(min=0.0, help="Largest gradient norm; 0 for no clipping.")] = 1.0,
    mixed_precision: Annotated[
        str,
        typer.Option(
            help="auto, no (fp32), bf16 or fp16. auto is bf16 or fp16 if `accelerate launch` says so, else the "
            "hardware's best."
        ),
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare samples.")] = 2,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of metrics.jsonl.")] = 10,
    checkpoints_limit: Annotated[int, typer.Option(min=0, help="How many checkpoints are kept; 0 keeps all.")] = 2,
    resume: Annotated[
        str | None,
        typer.Option(help="`latest` (starts over where there is none) or the path of a checkpoint-N directory."),
    ] = None,
    device: shared.Device = "auto",
    seed: shared.Seed = 0,
    overwrite: shared.Overwrite = False,
    dry_run: DryRun = False,
    json: shared.Json = False,
) -> None:
    """The loop's options; those without a default get one from each command."""


def with_loop_options(**defaults: Any) -> Callable:
    """Give a training command the loop's options, with its own `defaults`, as one argument `run: Run`."""
    return shared.with_options("run", _options, _run, **defaults)


def _run(out: Path, dry_run: bool, json: bool, **options: Any) -> Run:
    choose("--mixed-precision", options["mixed_precision"], ("auto", "no", "bf16", "fp16"))
    choose("--lr-schedule", options["schedule"], ("constant", "cosine"))
    from largegen.training.config import LoopConfig

    return Run(out, LoopConfig(**options), dry_run, json)


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


def open_cohort(
    paths: list[Path],
    native: bool,
    mag: float | None,
    mpp: float | None,
    gsd: float | None,
    source_mpp: float | None,
    source_mag: float | None,
    source_gsd: float | None,
) -> "list[tuple[Slide, float]]":
    """Open slides, scenes and directories of them: (slide, level-0 px per px at the resolution asked for)."""
    from largegen.errors import InputError
    from largegen.slides.find import find_slides
    from largegen.slides.slide import open_slide

    if sum((native, *(value is not None for value in (mag, mpp, gsd)))) > 1:
        raise InputError("--native, --mag, --mpp, --gsd: give only one of them")
    target = Target(mag, mpp, gsd)
    slides = [open_slide(path, source_mpp, source_mag, source_gsd) for path in find_slides(paths)]
    return [(slide, 1.0 if native else target.downsample(slide)) for slide in slides]
