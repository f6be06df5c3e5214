"""`largegen distill`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli.derived import Fields
from largegen.cli.training_options import Loop, Run
from largegen.training.config import DistillationConfig, LoopConfig


def distill(
    model: Annotated[str, typer.Argument(help="The teacher: a bundled model's name, a model or run directory.")],
    *,
    data: Annotated[
        list[Path],
        typer.Option(help="Embedding files (.h5) or directories of them, of slides like those that it was trained on."),
    ],
    run: Run,
    distillation: Annotated[
        DistillationConfig, Fields(orientations="--turns", held_out="--validation")
    ] = DistillationConfig(),
    loop: Loop = LoopConfig(
        steps=4000,
        batch_size=16,
        learning_rate=3e-4,
        warmup_steps=20,
        weight_decay=0.0,
        ema_decay=0.995,
        validate_every=500,
        checkpoint_every=100,
    ),
) -> None:
    """Run `largegen distill`; its purpose stands in commands.py.

    The result is the teacher's model directory with a student in its folder fast/, a few megabytes that can be copied
    into the teacher's own directory. The commands that generate images then take the student by themselves.
    """
    run.check(loop)
    from largegen.training.prepare_distillation import distillation_task

    task = distillation_task(model, replace(distillation, embeddings=tuple(data)), loop, run.out)
    run.train(task, loop, "distilled in {steps} steps; use it as --model {model}")
