"""`largegen zoom`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.one_job import kept
from largegen.cli.reference_options import Reference
from largegen.cli.watch import Watch, watched
from largegen.errors import InputError
from largegen.sampling.settings import Imagining, Sampling, Zooming


def zoom(
    *,
    reference: Reference,
    imagining: Imagining,
    size: Annotated[
        str, typer.Option(help="Side of the image in px: 512, 1024, 2048 or 4096 with tiles of 256 px and 5 levels.")
    ] = "1024",
    region: shared.Corner = None,
    model: shared.ModelName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output; the suffix says the format: .tif, .ome.tif, .dzi, .png or .jpg. The guide goes beside it.",
            show_default="<slide>_zoom_<size>.tif",
        ),
    ] = None,
    levels: Annotated[
        bool, typer.Option("--levels", help="Also write the image at each magnification in between, as PNG.")
    ] = False,
    zooming: Zooming,
    sampling: Annotated[Sampling, Fields("steps", "guidance", "distilled", "batch_size", "seed")] = Sampling(),
    save_every: shared.SaveEvery = 30.0,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    overwrite: shared.Overwrite = False,
    watch: Watch = False,
    dry_run: shared.DryRun = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen zoom`; its purpose stands in commands.py.

    The guide is one patch at the magnification that shows the whole image (1.25x for 4096 px at 20x), conditioned on
    all embeddings under it; the image, downsampled, matches the guide. After an interruption, the same command resumes.
    """
    zooming.check()
    sampling.check()
    from largegen.conditioning.area import parse_corner, parse_size
    from largegen.images.finished import check_before

    wanted, corner = parse_size(size), parse_corner(region) if region else None
    if wanted is None:
        raise InputError(f"`size` {size}: zoom makes squares of a given side")
    chosen = reference.choose(imagining, sampling.seed, wanted, corner, outline=dry_run)
    out = out or Path(f"{chosen.name}_zoom_{size}.tif")
    check_before(out, overwrite, wanted, common.command_line())
    from largegen.images.zoom_file import estimate_zoom, zoom_file
    from largegen.models.model import load_model
    from largegen.runtime.distributed import require_single_process
    from largegen.sampling.zoom.zoom import check_zooming, level_of, resolve_zoom

    if zooming.method == "published" and precision == "auto":
        precision = "fp32"  # lower precisions drown its forward differences
    network = kept(load_model, chosen.choose_model(model), device, precision)
    require_single_process(network.device)
    level_of(network, wanted)
    check_zooming(network, zooming)
    sampling = resolve_zoom(sampling, zooming, network)
    with ExitStack() as stack:
        source = chosen.open(stack, network, common.show_progress())
        place = source.area(network, wanted, corner)
        if dry_run:
            common.print_json(estimate_zoom(network, place, sampling, zooming, out))
            return
        grid = source.grid(place)
    with watched(watch, out, network.directory):
        report = zoom_file(
            network,
            grid,
            place,
            out,
            sampling,
            zooming,
            command=common.command_line(),
            levels=levels,
            overwrite=overwrite,
            progress=common.show_progress(),
            save_every_s=save_every,
        )
    done = f"{out}: {place.width}x{place.height} px"
    if "guide_psnr" in report:
        done += f", {report['guide_psnr']:.1f} dB from its guide"
    common.report(report, done, json)
