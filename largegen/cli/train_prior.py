"""`largegen train-prior`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli.derived import Fields
from largegen.cli.training_options import Run
from largegen.training.config import LoopConfig, PriorConfig


def train_prior(
    embeddings: Annotated[
        list[Path], typer.Argument(help="Embedding files (.h5) or directories of them.", metavar="EMBEDDINGS...")
    ],
    *,
    run: Run,
    prior: Annotated[PriorConfig, Fields(clip_model="--clip", held_out="--validation")],
    loop: Annotated[LoopConfig, Fields(schedule="--lr-schedule", clip="--clip-norm")] = LoopConfig(
        batch_size=64, learning_rate=3e-4, warmup_steps=500, schedule="cosine", ema_decay=0.999
    ),
) -> None:
    """Run `largegen train-prior`; its purpose stands in commands.py.

    Learns which embeddings lie beside which, and where glass lies, so that a grid can be invented: of anything, of
    a label or of a text. Use it with `imagine`, and with `generate` and `zoom` in place of a reference.
    """
    prior = replace(prior, embeddings=tuple(embeddings))
    from largegen.training.prepare_prior import prior_task

    task = prior_task(prior, loop, run.out.absolute().name)
    run.train(task, loop, "grid prior, {steps} steps; use it as --prior {model}")
