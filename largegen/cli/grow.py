"""`largegen grow`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.reference_options import load_for
from largegen.errors import InputError
from largegen.sampling.settings import Imagining, Sampling


def grow(
    *,
    image: shared.Image = None,
    size: Annotated[str | None, typer.Option(help="N or WxH: pixels of the new image.")] = None,
    place: Annotated[
        str | None,
        typer.Option(help="X,Y: where the image's corner lies in the new one, in pixels.", show_default="the middle"),
    ] = None,
    source: shared.SourceOptions,
    imagining: Imagining,
    margin: Annotated[
        int, typer.Option(help="Pixels inside the image's borders over which old and new are blended.", min=0)
    ] = 32,
    model: shared.ModelName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output, without loss; the suffix says the format: .tif, .ome.tif, .dzi or .png.",
            show_default="<image>_grown.tif",
        ),
    ] = None,
    sampling: Sampling,
    encoder_weights: shared.EncoderWeights = None,
    run: shared.RunOptions,
) -> None:
    """Run `largegen grow`; its purpose stands in commands.py.

    The grid of embeddings is gone on with by the prior, given what is there, and the image by the denoiser. What was
    there stays as it is, bit by bit, but for a margin. What is made is no observation; a GeoJSON file beside the result
    says where it is. After an interruption, the same command resumes.
    """
    sampling.check()
    image = shared.required(image, "an IMAGE, a directory of images, or `jobs`")
    size = shared.required(size, "`size`")
    from largegen.conditioning.area import parse_corner, parse_size
    from largegen.images.edit_content import EditRequest
    from largegen.images.finished import check_before
    from largegen.images.write import check_lossless
    from largegen.slides.slide import open_slide, slide_name

    wanted, corner = parse_size(size), parse_corner(place, "place") if place else None
    if wanted is None:
        raise InputError(f"`size` {size}: give N or WxH (pixels)")
    out = out or Path(f"{slide_name(image)}_grown.tif")
    check_lossless(out)
    check_before(out, run.overwrite, wanted, common.command_line())
    with open_slide(image, *source.source()) as slide:
        from largegen.images.grow_file import estimate_grow, grow_file
        from largegen.images.part import Edit
        from largegen.sampling.grow import place_in

        network = load_for(image, source.source(), model, run.device, run.precision)
        place_in(network, (slide.width, slide.height), wanted, corner)
        request = EditRequest(imagining=imagining)
        request.warn_of_scale(network, slide)
        content, about = request.content(network, sampling.seed, common.show_progress())
        asked = Edit(content, about, margin=margin)
        if run.dry_run:
            common.print_json(estimate_grow(network, slide, wanted, corner, asked, sampling, out))
            return
        report = grow_file(
            network,
            slide,
            wanted,
            corner,
            asked,
            out,
            sampling,
            run.writing,
            encoder_weights=encoder_weights,
        )
    done = f"{out}: {wanted[0]}x{wanted[1]} px, {image.name} at {report['place'][0]},{report['place'][1]}"
    common.report(report, f"{done}; what is around it is made, no observation", run.json)
