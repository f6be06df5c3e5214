"""`largegen train-vae`."""

from typing import Annotated

import typer

from largegen.cli.derived import Fields
from largegen.cli.training_options import Loop, Run, SlideOptions, SlidePaths
from largegen.training.config import AutoencoderConfig, LoopConfig


def train_vae(
    slides: SlidePaths,
    *,
    run: Run,
    preset: Annotated[
        str, typer.Option(help="Form of the autoencoder: starter, residual (as before) or tiny.")
    ] = "starter",
    autoencoder: Annotated[AutoencoderConfig, Fields(held_out="--validation")] = AutoencoderConfig(
        latent_channels=0, crop_px=0
    ),
    resolution: SlideOptions,
    loop: Loop = LoopConfig(
        steps=20_000, batch_size=16, learning_rate=5e-4, warmup_steps=100, schedule="cosine", ema_decay=0.999
    ),
) -> None:
    """Run `largegen train-vae`; its purpose stands in commands.py.

    Its latent space is what `train --vae` works in. The loss is L1, a structural term (1 - SSIM), a small
    Kullback-Leibler term and, with --perceptual, ST-LPIPS; no network is downloaded.
    """
    autoencoder = autoencoder.with_preset(preset)
    run.check(loop)
    from largegen.training.tasks.autoencoder import AutoencoderTask

    task = AutoencoderTask(resolution.open(slides), autoencoder, loop.seed)
    run.train(task, loop, "autoencoder, {steps} steps; use it as --vae {model}")
