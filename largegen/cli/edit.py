"""`largegen edit`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.reference_options import load_for
from largegen.errors import InputError
from largegen.sampling.settings import Imagining, Sampling


def edit(
    *,
    image: shared.Image = None,
    mask: Annotated[
        str | None,
        typer.Option(help="The part: X,Y,W,H in level-0 pixels, a PNG of the image's size, or GeoJSON polygons."),
    ] = None,
    source: shared.SourceOptions,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Put there what another slide shows: its embedding file.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="ROW,COLUMN: the tile of --from to begin with.", show_default="0,0")
    ] = None,
    imagining: Imagining,
    move: Annotated[
        list[str] | None,
        typer.Option(help="NAME=AMOUNT: move what is there along a direction of --directions; may be given again."),
    ] = None,
    directions: Annotated[
        Path | None, typer.Option(help="NumPy file (.npz) of directions in the encoder's space, by name.")
    ] = None,
    strength: Annotated[
        float, typer.Option(help="Part of the steps to take, up to 1: less keeps more of the form of what is there.")
    ] = 1.0,
    margin: Annotated[int, typer.Option(help="Pixels around the mask over which old and new are blended.", min=0)] = 32,
    model: shared.ModelName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output, without loss; the suffix says the format: .tif, .ome.tif, .dzi or .png.",
            show_default="<image>_edited.tif",
        ),
    ] = None,
    sampling: Annotated[Sampling, Fields("steps", "guidance", "distilled", "batch_size", "seed")] = Sampling(),
    encoder_weights: shared.EncoderWeights = None,
    run: shared.RunOptions,
) -> None:
    """Run `largegen edit`; its purpose stands in commands.py.

    Pixels outside the mask and its margin stay as they are, bit by bit. Inside it shows what --from, --label or
    --prompt, or --move says, else what goes with its surroundings. What is made is no observation; a GeoJSON file
    beside the result says where it is. After an interruption, the same command resumes.
    """
    sampling.check()
    image = shared.required(image, "an IMAGE, a directory of images, or `jobs`")
    mask = shared.required(mask, "`mask`")
    ways = {"from": from_ is not None, "label or prompt": imagining != Imagining(), "move": bool(move)}
    if sum(ways.values()) > 1:
        raise InputError("`from_`, `label` or `prompt`, and `move`: give only one of them")
    if (at is not None) and from_ is None:
        raise InputError("`at`: only with `from_`")
    if bool(move) != (directions is not None):
        raise InputError("`move` needs `directions`, and the other way round")
    from largegen.images.edit_content import EditRequest
    from largegen.images.finished import check_before
    from largegen.images.write import check_lossless
    from largegen.slides.mask import open_mask
    from largegen.slides.slide import open_slide, slide_name

    request = EditRequest(from_, at, imagining, tuple(move or ()), directions)
    request.check()
    out = out or Path(f"{slide_name(image)}_edited.tif")
    check_lossless(out)
    check_before(out, run.overwrite, None, common.command_line())
    with open_slide(image, *source.source()) as slide:
        part = open_mask(mask, (slide.width, slide.height))
        from largegen.images.edit_file import edit_file, estimate_edit
        from largegen.images.part import Edit
        from largegen.sampling.edit import check_edit

        check_edit(strength, margin)
        network = load_for(image, source.source(), model, run.device, run.precision)
        request.warn_of_scale(network, slide)
        content, about = request.content(network, sampling.seed, common.show_progress())
        asked = Edit(content, {"mask": mask, **about}, strength, margin)
        if run.dry_run:
            common.print_json(estimate_edit(network, slide, part, asked, sampling, out))
            return
        report = edit_file(
            network,
            slide,
            part,
            asked,
            out,
            sampling,
            run.writing,
            encoder_weights=encoder_weights,
        )
    done = f"{out}: {report['width']}x{report['height']} px"
    if "made_px" in report:
        done += f", {report['made_px']} px of them made (no observation), {report['blended_px']} blended"
        if report["autoencoder_psnr"] is not None:
            done += f"; the autoencoder alone is {report['autoencoder_psnr']:.1f} dB from the image"
    common.report(report, done, run.json)
