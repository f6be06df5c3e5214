"""`largegen train-vae`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import loop_options as loop
from largegen.cli import options as shared


def train_vae(
    slides: Annotated[list[Path], typer.Argument(help="Slides, scenes or directories of them.")],
    out: loop.Out,
    preset: Annotated[str, typer.Option(help="Size of the autoencoder: starter or tiny.")] = "starter",
    latent_channels: Annotated[int, typer.Option(min=0, help="Latent channels; 0 is the preset's.")] = 0,
    perceptual_weight: Annotated[float, typer.Option(min=0.0, help="Weight of the perceptual term, 1 - SSIM.")] = 0.2,
    crop_px: Annotated[int, typer.Option(min=0, help="Side of the training crops; 0 is the preset's.")] = 0,
    mag: shared.Mag = None,
    mpp: shared.Mpp = None,
    gsd: shared.Gsd = None,
    native: loop.Native = False,
    source_mpp: shared.SourceMpp = None,
    source_mag: shared.SourceMag = None,
    source_gsd: shared.SourceGsd = None,
    steps: loop.Steps = 20_000,
    batch_size: loop.GlobalBatch = 16,
    accumulation: loop.Accumulation = 1,
    learning_rate: loop.LearningRate = 5e-4,
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
    """Fit an autoencoder on tiles of slides, for `train` to work in its latents.

    The loss is L1, a perceptual term (1 - SSIM) and a little Kullback-Leibler; no network is downloaded.
    """
    loop.choose("--preset", preset, ("starter", "tiny"))
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
    from dataclasses import replace

    from largegen.training.autoencoder import PRESETS, AutoencoderTask
    from largegen.training.loop import fit

    cohort = loop.open_cohort(slides, native, mag, mpp, gsd, source_mpp, source_mag, source_gsd)
    form = replace(PRESETS[preset], perceptual_weight=perceptual_weight, held_out=validation)
    form = replace(
        form,
        latent_channels=latent_channels or form.latent_channels,
        crop_px=crop_px or form.crop_px,
    )
    model = fit(AutoencoderTask(cohort, form, seed), out, config)
    typer.echo(f"{model}: autoencoder, {steps} steps")
