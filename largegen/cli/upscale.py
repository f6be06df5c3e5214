"""`largegen upscale`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.reference_options import load_for
from largegen.cli.watch import Watch, watched
from largegen.sampling.settings import UPSCALING, Inversion, Sampling, Zooming


def upscale(
    *,
    image: shared.Image = None,
    mag: Annotated[
        float | None,
        typer.Option(
            help="Read the image at this magnification; that of an image which says none.", show_default="its own"
        ),
    ] = None,
    resolution: shared.ResolutionOptions,
    to: Annotated[
        float | None, typer.Option(help="Magnification to make, the model's finest.", show_default="the model's finest")
    ] = None,
    factor: Annotated[
        int | None, typer.Option(help="Enlarge by 2, 4 or 8, where no magnification is known.", min=2, max=8)
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="X,Y,W,H: the part to enlarge, in level-0 pixels.", show_default="all of the image"),
    ] = None,
    model: shared.ModelName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output; the suffix says the format: .tif, .ome.tif, .dzi, .png or .jpg.",
            show_default="<image>_upscaled.tif",
        ),
    ] = None,
    zooming: Zooming = UPSCALING,
    inversion: Inversion,
    sampling: Annotated[Sampling, Fields("steps", "guidance", "distilled", "batch_size", "seed")] = Sampling(),
    encoder_weights: shared.EncoderWeights = None,
    run: shared.RunOptions,
    watch: Watch = False,
) -> None:
    """Run `largegen upscale`; its purpose stands in commands.py.

    Finds the embeddings under the image by inversion through the denoiser, and samples the finest magnification that
    the model knows with the image as its guide: shrunk, the result is the image. What is finer than the image is
    invented; it is no observation. After an interruption, the same command resumes.
    """
    sampling.check()
    image = shared.required(image, "an IMAGE, a directory of images, or `jobs`")
    inversion.check()
    zooming.check(UPSCALING)
    from largegen.conditioning.low_image import parse_rectangle, read_low_image
    from largegen.images.finished import check_before
    from largegen.slides.resolution import Resolution
    from largegen.slides.slide import slide_name

    target, source = Resolution(resolution.mpp, mag, resolution.gsd), resolution.source()
    target.check()
    part = parse_rectangle(region) if region else None
    out = out or Path(f"{slide_name(image)}_upscaled.tif")
    check_before(out, run.overwrite, None, common.command_line())
    from largegen.images.upscale_file import estimate_upscale, upscale_file
    from largegen.images.write import check_output
    from largegen.sampling.zoom.upscale import check_upscaling
    from largegen.sampling.zoom.zoom import resolve_zoom

    # Lower precisions drown the published method's forward differences.
    precision = "fp32" if zooming.method == "published" and run.precision == "auto" else run.precision
    network = load_for(image, source, model, run.device, precision)
    check_upscaling(network, zooming, inversion)
    with read_low_image(network, image, source, target, to=to, factor=factor, region=part) as low:
        height, width = (side * low.factor for side in low.pixels.shape[:2])
        check_output(out, overwrite=True, size=(width, height))
        if run.dry_run:
            settings = resolve_zoom(sampling, zooming, network)
            common.print_json(estimate_upscale(network, low, settings, zooming, inversion, out))
            return
        with watched(watch, out, network.directory):
            report = upscale_file(
                network, low, out, sampling, zooming, inversion, run.writing, encoder_weights=encoder_weights
            )
    done = f"{out}: {width}x{height} px"
    if "consistency_psnr" in report:
        done += f", {report['consistency_psnr']:.1f} dB from {image.name} when shrunk; its detail is invented"
    common.report(report, done, run.json)
