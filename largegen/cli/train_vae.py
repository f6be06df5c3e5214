"""`largegen train-vae`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import options as shared
from largegen.cli import training_options as loop


@loop.with_loop_options(
    steps=20_000,
    batch_size=16,
    learning_rate=5e-4,
    warmup_steps=100,
    schedule="cosine",
    ema_decay=0.999,
    validate_every=500,
    checkpoint_every=500,
)
def train_vae(
    slides: Annotated[list[Path], typer.Argument(help="Slides, scenes or directories of them.", metavar="SLIDE...")],
    preset: Annotated[str, typer.Option(help="Size of the autoencoder: starter or tiny.")] = "starter",
    latent_channels: Annotated[int, typer.Option(min=0, help="Latent channels.", show_default="the preset's")] = 0,
    perceptual_weight: Annotated[float, typer.Option(min=0.0, help="Weight of the perceptual term, 1 - SSIM.")] = 0.2,
    crop_px: Annotated[int, typer.Option(min=0, help="Side of the training crops.", show_default="the preset's")] = 0,
    levels: Annotated[
        int, typer.Option(min=1, max=8, help="Also take crops at lower resolutions: 3 adds 1/2 and 1/4.")
    ] = 1,
    validation: loop.Validation = 0.05,
    mag: shared.Mag = None,
    mpp: shared.Mpp = None,
    gsd: shared.Gsd = None,
    native: loop.Native = False,
    source_mpp: shared.SourceMpp = None,
    source_mag: shared.SourceMag = None,
    source_gsd: shared.SourceGsd = None,
    *,
    run: loop.Run,
) -> None:
    """Fit an autoencoder on tiles of slides, for `train` to work in its latents.

    The loss is L1, a perceptual term (1 - SSIM) and a little Kullback-Leibler; no network is downloaded.
    """
    loop.choose("--preset", preset, ("starter", "tiny"))
    from dataclasses import replace

    from largegen.training.tasks.autoencoder import PRESETS, AutoencoderTask

    cohort = loop.open_cohort(slides, native, mag, mpp, gsd, source_mpp, source_mag, source_gsd)
    form = replace(PRESETS[preset], perceptual_weight=perceptual_weight, levels=levels, held_out=validation)
    form = replace(form, latent_channels=latent_channels or form.latent_channels, crop_px=crop_px or form.crop_px)
    run.fit(AutoencoderTask(cohort, form, run.config.seed), "autoencoder, {steps} steps; use it as --vae {model}")
