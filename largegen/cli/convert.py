"""`largegen convert`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or checkpoint of ZoomLDM, Large-Image-Diffusion or LDM, or a directory in diffusers' layout;"
            " hf:ORG/NAME/FOLDER downloads one.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model directory to write.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="File name of the checkpoint, if the folder has several.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(help="Autoencoder, if SOURCE has none: another source, or a model's directory.")
    ] = None,
    cdm: Annotated[
        str | None,
        typer.Option(
            help="ZoomLDM's conditioning diffusion model for this denoiser: its checkpoint (.pt), the folder of it, or"
            " hf:ORG/NAME/FOLDER; `sample` then needs no reference."
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder that the model was trained with; see `largegen encoders`.", show_default="as published"
        ),
    ] = None,
    embedding_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Width of the embeddings of an --encoder of your own, which is not known here; embedding files that"
            " carry its name are then taken.",
        ),
    ] = None,
    region_encoder: Annotated[
        str | None, typer.Option(help="Encoder of the regions around the tiles, for a model that takes them.")
    ] = None,
    mag: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Magnification that the model was trained at, its finest.", show_default="as published"
        ),
    ] = None,
    raw_weights: Annotated[
        bool, typer.Option("--raw-weights", help="Take the last weights instead of their average (EMA).")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the model.", show_default="the directory's")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the model's weights.", show_default="the encoder's")] = "",
    export_precision: shared.ExportPrecision = "fp32",
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen convert`; its purpose stands in commands.py.

    No code in the checkpoint is run. Every tensor is used, or reported as left out with the reason.
    """
    from largegen.models.convert.convert import convert
    from largegen.runtime.device import export_dtype

    dtype = export_dtype(export_precision)
    report = convert(
        source,
        out,
        vae=vae,
        cdm=cdm,
        encoder=encoder,
        embedding_dim=embedding_dim,
        region_encoder=region_encoder,
        mag=mag,
        checkpoint=checkpoint,
        raw_weights=raw_weights,
        name=name,
        licence=licence,
        dtype=dtype,
        overwrite=overwrite,
        progress=common.show_progress(),
    )
    if json:
        common.print_json({"out": str(out)} | asdict(report))
        return
    averaged = ", the denoiser's averaged (EMA)" if report.ema else ""
    typer.echo(f"{out}: {', '.join(report.parts)}: {report.used} weights of {report.source}{averaged}")
    for reason, names in report.left_out.items():
        typer.echo(f"  left out: {len(names)} tensors, {reason} ({names[0]}{', ...' if len(names) > 1 else ''})")
    if "conditioner" not in report.parts:
        start = [f"--vae {out}"] * ("vae" in report.parts) + [f"--init-from {out}"] * ("unet" in report.parts)
        typer.echo(f"To train from it: largegen train EMBEDDINGS --preset published {' '.join(start)}")
