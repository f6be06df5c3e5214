"""`largegen sample`."""

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.reference_options import Reference
from largegen.errors import InputError
from largegen.sampling.settings import Sampling

if TYPE_CHECKING:
    from largegen.models.model import Model


def sample(
    *,
    reference: Reference,
    mag: Annotated[
        float | None, typer.Option(help="Magnification of the patches: 20, 10, 5, ...", show_default="the base")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, help="The same as a number: 0 is the base, 1 is half of it, ...")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Patches on the sheet.")] = 16,
    model: shared.ModelName = "starter",
    out: Annotated[
        Path | None,
        typer.Option(help="The sheet: .png, .jpg or .tif.", show_default="<slide>_samples_<magnification>.png"),
    ] = None,
    sampling: Annotated[Sampling, Fields("steps", "guidance", "seed")],
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Sample single patches, as a contact sheet.

    All are at one magnification, each conditioned on the embeddings at a random place of a reference.
    """
    sampling.check()
    chosen = reference.check()
    import numpy as np

    if mag is not None and level is not None:
        raise InputError("--mag, --level: give only one of them")
    from largegen.conditioning.area import ImageArea
    from largegen.images.contact_sheet import lay_out
    from largegen.images.provenance import image_info
    from largegen.images.write import check_output, write_image
    from largegen.models.model import load_model
    from largegen.models.pixels import to_images
    from largegen.runtime.distributed import require_single_process
    from largegen.runtime.lock import lock
    from largegen.sampling.generate import resolve_defaults
    from largegen.sampling.patches import choose_places, grids_at, sample_patches
    from largegen.sampling.zoom.guide import guide_image

    network = load_model(model, device, precision)
    require_single_process(network.device)
    level = _level(network, mag, level)
    name = network.level_names[level]
    sampling = resolve_defaults(sampling, network)
    out = out or Path(f"{chosen.name}_samples_{name}.png")
    check_output(out, overwrite, (min(count, 8) * network.tile_px, -(-count // 8) * network.tile_px))
    with ExitStack() as stack:
        source = chosen.open(stack, network, shared.show_progress())
        places = choose_places(source.tissue, level, count, sampling.seed)
        grids, grid = grids_at(source, places, level, network.tile_px)
    latents = sample_patches(network, grids, level, sampling, progress=shared.show_progress())
    patches = [to_images(guide_image(network, part)) for part in latents.split(8)]
    sheet = lay_out(np.concatenate(patches), min(count, 8))
    height, width = sheet.shape[:2]
    about = {"level": level, "magnification": name, "patches": count}
    region = ImageArea(width, height, 0, 0, 1, 1, full=False)
    info = image_info(network, grid, region, sampling, shlex.join(["largegen", *sys.argv[1:]]), **about)
    with lock(out):
        check_output(out, overwrite, (width, height))
        write_image(out, [(0, sheet)], info.of_a_sheet(2**level))
    if json:
        shared.print_json({"out": str(out), **about})
    else:
        typer.echo(f"{out}: {count} patches at {name}")


def _level(model: "Model", mag: float | None, level: int | None) -> int:
    """The level that was asked for. Raises InputError for one that the model has not."""
    if mag is not None:
        wanted = f"{mag:g}x"
        if wanted not in model.level_names:
            raise InputError(f"--mag {mag:g}: this model samples at {', '.join(model.level_names)}")
        return model.level_names.index(wanted)
    if level is not None and level >= model.levels:
        raise InputError(f"--level {level}: this model has levels 0 to {model.levels - 1}")
    return level or 0
