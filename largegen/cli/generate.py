"""`largegen generate`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.one_job import kept
from largegen.cli.reference_options import Reference
from largegen.cli.watch import Watch, watched
from largegen.sampling.settings import Imagining, Sampling


def generate(
    *,
    reference: Reference,
    imagining: Imagining,
    size: Annotated[str, typer.Option(help="N, WxH (pixels) or full (all of the reference).")] = "1024",
    region: shared.Corner = None,
    model: shared.ModelName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output; the suffix says the format: .tif, .ome.tif, .dzi, .png or .jpg.",
            show_default="<slide>_synthetic_<size>.tif",
        ),
    ] = None,
    sampling: Sampling,
    save_every: shared.SaveEvery = 30.0,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    overwrite: shared.Overwrite = False,
    watch: Watch = False,
    dry_run: shared.DryRun = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen generate`; its purpose stands in commands.py.

    Embeds the reference (or reads its embedding file, or invents embeddings where there is no reference), samples
    overlapping or shifted windows conditioned on the interpolated embeddings, and writes a pyramidal TIFF or what the
    suffix of --out says. After an interruption, the same command resumes.
    """
    sampling.check()
    from largegen.conditioning.area import parse_corner, parse_size

    wanted, corner = parse_size(size), parse_corner(region) if region else None
    chosen = reference.choose(imagining, sampling.seed, wanted, corner, outline=dry_run)
    out = out or Path(f"{chosen.name}_synthetic_{size.lower()}.tif")
    from largegen.images.finished import check_before

    check_before(out, overwrite, wanted, common.command_line())
    from largegen.images.generate_file import estimate_generate, generate_file
    from largegen.models.model import load_model
    from largegen.sampling.generate import resolve_defaults

    network = kept(load_model, chosen.choose_model(model), device, precision)
    main = common.is_main_process(network.device)
    settings = resolve_defaults(sampling, network)
    with ExitStack() as stack:
        source = chosen.open(stack, network, common.show_progress())
        place = source.area(network, wanted, corner)
        if dry_run:
            if main:
                common.print_json(estimate_generate(network, place, source.tissue[place.tiles], settings, out))
            return
        grid = source.grid(place)
    with watched(watch and main, out, network.directory):
        report = generate_file(
            network,
            grid,
            place,
            out,
            sampling,
            command=common.command_line(),
            overwrite=overwrite,
            progress=common.show_progress(),
            save_every_s=save_every,
        )
    if main:
        common.report(report, f"{out}: {place.width}x{place.height} px", json)
