"""`largegen convert`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import loop_options as loop
from largegen.cli import options as shared


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder or .ckpt of ZoomLDM or Large-Image-Diffusion, its config beside it.", metavar="SOURCE"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Which checkpoint, where the folder has several: its file name.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder that the model was trained with; see `largegen encoders`.", show_default="as published"
        ),
    ] = None,
    raw_weights: Annotated[
        bool, typer.Option("--raw-weights", help="Take the weights as trained, not their average (EMA).")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the model.", show_default="the directory's")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the model's weights.", show_default="the encoder's")] = "",
    export_precision: loop.ExportPrecision = "fp32",
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Turn a published checkpoint into a model directory that every command takes.

    Nothing in the checkpoint is run. Every one of its tensors is used, or reported as left out and why.
    """
    from largegen.published import convert

    dtype = loop.export_dtype(export_precision)
    report = convert(
        source,
        out,
        encoder=encoder,
        checkpoint=checkpoint,
        raw_weights=raw_weights,
        name=name,
        licence=licence,
        dtype=dtype,
        overwrite=overwrite,
    )
    if json:
        shared.print_json({"out": str(out)} | asdict(report))
        return
    typer.echo(f"{out}: {report.used} weights of {report.source}{', EMA' if report.ema else ''}")
    for reason, names in report.left_out.items():
        typer.echo(f"  left out: {len(names)} tensors, {reason} ({names[0]}{', ...' if len(names) > 1 else ''})")
