"""`largegen train`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import options as shared
from largegen.cli import training_options as loop
from largegen.errors import InputError


@loop.with_loop_options(
    steps=100_000,
    batch_size=32,
    learning_rate=1e-4,
    warmup_steps=1000,
    schedule="constant",
    ema_decay=0.9999,
    validate_every=1000,
    checkpoint_every=1000,
)
def train(
    embeddings: Annotated[
        list[Path], typer.Argument(help="Embedding files (.h5) or directories of them.", metavar="EMBEDDINGS...")
    ],
    vae: Annotated[
        str, typer.Option(help="Autoencoder: a model, run or diffusers directory, or `starter`.")
    ] = "starter",
    slides: Annotated[
        Path | None, typer.Option(help="Where the slides are, if no longer where they were embedded.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Size of the denoiser: published (401 M parameters), starter or tiny.")
    ] = "starter",
    conditioner: Annotated[
        str, typer.Option(help="What turns embeddings into context: patch, or summarizer for several levels.")
    ] = "patch",
    levels: Annotated[
        int,
        typer.Option(
            min=0,
            max=8,
            help="Magnifications to learn, each half the one before: 5 is 20x to 1.25x.",
            show_default="5 with the summarizer, else 1",
        ),
    ] = 0,
    init_from: Annotated[
        str | None, typer.Option(help="Start from the weights of this model of the same form.")
    ] = None,
    turns: Annotated[
        int, typer.Option(help="Orientations of each region: 1 as it is, 2, 4 also flipped, 8 also quarter turns.")
    ] = 4,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of the computed latents.", show_default="<out>/latents")
    ] = None,
    validation: loop.Validation = 0.05,
    eval_every: Annotated[
        int,
        typer.Option(
            min=0,
            help="Steps between looks at samples of held-out regions: their Fréchet distance (fd:ENCODER) and their"
            " similarity to the real ones go to metrics.jsonl; 0 for none.",
        ),
    ] = 0,
    eval_samples: Annotated[int, typer.Option(min=2, help="Regions of each level to sample then, at most.")] = 128,
    eval_encoder: Annotated[
        str | None,
        typer.Option(help="Encoder that compares them. " + shared.ENCODER_HELP, show_default="the embeddings' own"),
    ] = None,
    encoder_weights: shared.EncoderWeights = None,
    name: Annotated[str, typer.Option(help="Name of the model.", show_default="the run directory's")] = "",
    licence: Annotated[
        str, typer.Option(help="Licence of the model's weights.", show_default="the encoder's and --init-from's")
    ] = "",
    export_precision: loop.ExportPrecision = "fp32",
    *,
    run: loop.Run,
) -> None:
    """Fit a latent diffusion model conditioned on embeddings, from slides and their embedding files.

    Runs on one device as it is; on several GPUs, or as several processes on a CPU (then with --device cpu), with:
    accelerate launch --multi_gpu --num_processes 2 -m largegen train ...
    """
    loop.choose("--preset", preset, ("published", "starter", "tiny"))
    loop.choose("--conditioner", conditioner, ("patch", "summarizer"))
    levels = levels or (5 if conditioner == "summarizer" else 1)
    if levels > 1 and conditioner == "patch":
        raise InputError(f"--levels {levels}: the patch conditioner knows one; use --conditioner summarizer")
    loop.choose("--turns", turns, (1, 2, 4, 8))
    dtype = loop.export_dtype(export_precision)
    from largegen.training.prepare import CohortConfig, denoiser_task

    cohort = CohortConfig(
        embeddings=tuple(embeddings),
        slides=slides,
        vae=vae,
        preset=preset,
        conditioner=conditioner,
        levels=levels,
        init_from=init_from,
        orientations=turns,
        cache=cache or run.out / "latents",
        held_out=validation,
        name=name or run.out.absolute().name,
        licence=licence,
        export_dtype=dtype,
        eval_every=eval_every,
        eval_samples=eval_samples,
        eval_encoder=eval_encoder,
        encoder_weights=encoder_weights,
    )
    task = denoiser_task(cohort, run.config, encode=not run.dry_run)
    run.fit(task, "denoiser, {steps} steps; use it as --model {model}")
