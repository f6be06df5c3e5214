"""`largegen train-encoder`."""

from dataclasses import replace
from typing import Annotated

from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.training_options import Loop, Run, SlideOptions, SlidePaths
from largegen.training.config import EncoderConfig, LoopConfig


def train_encoder(
    slides: SlidePaths,
    *,
    run: Run,
    encoder: Annotated[EncoderConfig, Fields(held_out="--validation")],
    export_precision: shared.ExportPrecision = "fp32",
    resolution: SlideOptions,
    loop: Loop = LoopConfig(batch_size=128, learning_rate=1e-3, warmup_steps=100, schedule="cosine", ema_decay=0.999),
) -> None:
    """Run `largegen train-encoder`; its purpose stands in commands.py.

    The loss is contrastive: embeddings of nearby crops become similar, those of all others in the batch dissimilar.
    Crops are not augmented in colour or scale, so embeddings keep both. Use the result with `embed --encoder`.
    """
    run.check(loop)
    from largegen.runtime.device import export_dtype
    from largegen.training.tasks.encoder import EncoderTask

    dtype = export_dtype(export_precision)
    encoder = replace(encoder, shift_px=encoder.tile_px // 2)
    task = EncoderTask(resolution.open(slides), encoder, loop.seed, dtype)
    run.train(task, loop, "encoder, {steps} steps; use it as --encoder local-dir:{model}")
