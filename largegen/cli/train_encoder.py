"""`largegen train-encoder`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import loop_options as loop
from largegen.cli import options as shared


def train_encoder(
    slides: Annotated[list[Path], typer.Argument(help="Slides, scenes or directories of them.")],
    out: loop.Out,
    architecture: Annotated[str, typer.Option(help="Any timm model name.")] = "resnet10t",
    width: Annotated[int, typer.Option(min=8, help="Width of the embedding.")] = 256,
    tile_px: Annotated[int, typer.Option(min=32, help="Side of the tiles it will see.")] = 256,
    input_px: Annotated[int, typer.Option(min=32, help="Side that tiles are resized to for the network.")] = 128,
    export_precision: loop.ExportPrecision = "fp32",
    licence: Annotated[str, typer.Option(help="Licence of the weights; it travels with all they make.")] = (
        "Apache-2.0"
    ),
    mag: shared.Mag = None,
    mpp: shared.Mpp = None,
    gsd: shared.Gsd = None,
    native: loop.Native = False,
    source_mpp: shared.SourceMpp = None,
    source_mag: shared.SourceMag = None,
    source_gsd: shared.SourceGsd = None,
    steps: loop.Steps = 10_000,
    batch_size: loop.GlobalBatch = 128,
    accumulation: loop.Accumulation = 1,
    learning_rate: loop.LearningRate = 1e-3,
    warmup_steps: loop.WarmupSteps = 100,
    schedule: loop.Schedule = "cosine",
    weight_decay: loop.WeightDecay = 0.01,
    clip: loop.Clip = 1.0,
    ema_decay: loop.EmaDecay = 0.999,
    mixed_precision: loop.MixedPrecision = "auto",
    device: shared.Device = "auto",
    validation: loop.ValidationFraction = 0.05,
    workers: loop.TrainingWorkers = 2,
    log_every: loop.LogEvery = 10,
    validate_every: loop.ValidateEvery = 500,
    checkpoint_every: loop.CheckpointEvery = 500,
    checkpoints_limit: loop.CheckpointsLimit = 2,
    resume: loop.Resume = None,
    seed: shared.Seed = 0,
    overwrite: shared.Overwrite = False,
) -> None:
    """Fit a small tile encoder without labels on tiles of slides, for `embed` to use.

    Nearby crops attract, all others repel; colour and scale are left alone and stay in the embedding.
    """
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
    from largegen.training.encoder import EncoderConfig, EncoderTask
    from largegen.training.loop import fit

    cohort = loop.open_cohort(slides, native, mag, mpp, gsd, source_mpp, source_mag, source_gsd)
    form = EncoderConfig(architecture, width, tile_px, input_px, tile_px // 2, held_out=validation, licence=licence)
    model = fit(EncoderTask(cohort, form, seed, loop.export_dtype(export_precision)), out, config)
    typer.echo(f"{model}: encoder, {steps} steps; use it as --encoder local-dir:{model}")
