"""`largegen train`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli.derived import Fields
from largegen.cli.training_options import Loop, Run
from largegen.training.config import CohortConfig, LoopConfig


def train(
    embeddings: Annotated[
        list[Path], typer.Argument(help="Embedding files (.h5) or directories of them.", metavar="EMBEDDINGS...")
    ],
    *,
    run: Run,
    cohort: Annotated[CohortConfig, Fields(orientations="--turns", held_out="--validation")],
    loop: Loop = LoopConfig(steps=100_000, validate_every=1000, checkpoint_every=1000),
) -> None:
    """Run `largegen train`; its purpose stands in commands.py.

    Trains on slides and their embedding files, in the latent space of an autoencoder. For several GPUs, or several
    processes on a CPU (with --device cpu), start it with:
    accelerate launch --multi_gpu --num_processes 2 -m largegen train ...
    """
    cohort = replace(cohort, embeddings=tuple(embeddings)).resolve(run.out)
    run.check(loop)
    from largegen.training.prepare import denoiser_task

    task = denoiser_task(cohort, loop)
    run.train(task, loop, "denoiser, {steps} steps; use it as --model {model}")
