"""`largegen train-encoder`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import options as shared
from largegen.cli import training_options as loop


@loop.with_loop_options(
    steps=10_000,
    batch_size=128,
    learning_rate=1e-3,
    warmup_steps=100,
    schedule="cosine",
    ema_decay=0.999,
    validate_every=500,
    checkpoint_every=500,
)
def train_encoder(
    slides: Annotated[list[Path], typer.Argument(help="Slides, scenes or directories of them.", metavar="SLIDE...")],
    architecture: Annotated[str, typer.Option(help="Any timm model name.")] = "resnet10t",
    width: Annotated[int, typer.Option(min=8, help="Width of the embedding.")] = 256,
    tile_px: Annotated[int, typer.Option(min=32, help="Side of the tiles it will see.")] = 256,
    input_px: Annotated[int, typer.Option(min=32, help="Side that tiles are resized to for the network.")] = 128,
    export_precision: loop.ExportPrecision = "fp32",
    licence: Annotated[str, typer.Option(help="Licence of the weights; it travels with all they make.")] = "Apache-2.0",
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
    """Fit a small tile encoder without labels on tiles of slides, for `embed` to use.

    Nearby crops attract, all others in the batch repel; colour and scale are left alone and stay in the embedding.
    """
    dtype = loop.export_dtype(export_precision)
    from largegen.training.tasks.encoder import EncoderConfig, EncoderTask

    cohort = loop.open_cohort(slides, native, mag, mpp, gsd, source_mpp, source_mag, source_gsd)
    form = EncoderConfig(architecture, width, tile_px, input_px, tile_px // 2, held_out=validation, licence=licence)
    task = EncoderTask(cohort, form, run.config.seed, dtype)
    run.fit(task, "encoder, {steps} steps; use it as --encoder local-dir:{model}")
