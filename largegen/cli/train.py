"""`largegen train`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import loop_options as loop
from largegen.cli import options as shared


def train(
    embeddings: Annotated[list[Path], typer.Argument(help="Embedding files (.h5) or directories of them.")],
    out: loop.Out,
    vae: Annotated[str, typer.Option(help="Autoencoder: a model, run or diffusers directory, or `starter`.")] = (
        "starter"
    ),
    slides: Annotated[
        Path | None, typer.Option(help="Where the slides are, if no longer where they were embedded.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Size of the denoiser: published (401 M parameters), starter or tiny.")
    ] = "starter",
    conditioner: Annotated[str, typer.Option(help="What turns embeddings into context: patch.")] = "patch",
    init_from: Annotated[
        str | None, typer.Option(help="Start from the weights of this model of the same form.")
    ] = None,
    turns: Annotated[
        int, typer.Option(help="Ways each tile is laid: 1 as it is, 2, 4 also flipped, 8 also quarter turns.")
    ] = 4,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of the computed latents.", show_default="<out>/latents")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the model.", show_default="the run directory's")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the model's weights.", show_default="the encoder's")] = "",
    export_precision: loop.ExportPrecision = "fp32",
    steps: loop.Steps = 100_000,
    batch_size: loop.GlobalBatch = 32,
    accumulation: loop.Accumulation = 1,
    learning_rate: loop.LearningRate = 1e-4,
    warmup_steps: loop.WarmupSteps = 1000,
    schedule: loop.Schedule = "constant",
    weight_decay: loop.WeightDecay = 0.01,
    clip: loop.Clip = 1.0,
    ema_decay: loop.EmaDecay = 0.9999,
    mixed_precision: loop.MixedPrecision = "auto",
    device: shared.Device = "auto",
    validation: loop.ValidationFraction = 0.05,
    workers: loop.TrainingWorkers = 2,
    log_every: loop.LogEvery = 10,
    validate_every: loop.ValidateEvery = 1000,
    checkpoint_every: loop.CheckpointEvery = 1000,
    checkpoints_limit: loop.CheckpointsLimit = 2,
    resume: loop.Resume = None,
    seed: shared.Seed = 0,
    overwrite: shared.Overwrite = False,
) -> None:
    """Fit a latent diffusion model conditioned on embeddings, from slides and their embedding files.

    Runs on one device as it is, and on many under `accelerate launch -m largegen train ...`.
    """
    loop.choose("--preset", preset, ("published", "starter", "tiny"))
    loop.choose("--conditioner", conditioner, ("patch",))
    loop.choose("--turns", turns, (1, 2, 4, 8))
    config = loop.loop_config(
        steps=steps,
        batch_size=batch_size,
        accumulation=accumulation,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        schedule=schedule,
        weight_decay=weight_decay,
        clip=clip,
        ema_decay=ema_decay,
        mixed_precision=mixed_precision,
        device=device,
        workers=workers,
        log_every=log_every,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        checkpoints_limit=checkpoints_limit,
        resume=resume,
        seed=seed,
        overwrite=overwrite,
    )
    from largegen.training.cohort import CohortConfig, train_denoiser

    cohort = CohortConfig(
        embeddings=tuple(embeddings),
        slides=slides,
        vae=vae,
        preset=preset,
        conditioner=conditioner,
        init_from=init_from,
        turns=turns,
        cache=cache or out / "latents",
        held_out=validation,
        name=name or out.name,
        licence=licence,
        export_dtype=loop.export_dtype(export_precision),
    )
    model = train_denoiser(cohort, out, config)
    typer.echo(f"{model}: denoiser, {steps} steps; use it as --model {model}")
