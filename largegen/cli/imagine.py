"""`largegen imagine`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.errors import InputError
from largegen.sampling.settings import Imagining


def imagine(
    *,
    size: Annotated[str, typer.Option(help="N or WxH: pixels of the picture that the grid is for.")] = "4096",
    out: Annotated[Path, typer.Option(help="Embedding file to write (.h5).")],
    imagining: Annotated[Imagining, Fields(prior_guidance="--guidance", prior_steps="--steps")],
    mag: Annotated[
        float | None,
        typer.Option(help="Magnification of the grid, one that the prior knows.", show_default="the finest"),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="Model whose own prior is taken, if no --prior is given.")
    ] = "starter",
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**63 - 1)] = 0,
    device: shared.Device = "auto",
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen imagine`; its purpose stands in commands.py.

    The result is an embedding file as `largegen embed` makes it, for `--embeddings` of `generate` and `zoom`. Grids of
    any size are sampled in overlapping windows.
    """
    from largegen.conditioning.area import parse_size

    wanted = parse_size(size)
    if wanted is None:
        raise InputError(f"`size` {size}: give N or WxH (pixels)")
    from largegen.models.directory import PRIOR, find_model
    from largegen.models.grid_prior import load_prior
    from largegen.sampling.imagine import imagine_file, scale_at

    prior = load_prior(imagining.prior or find_model(model) / PRIOR, device)
    main = common.is_main_process(prior.device)
    settings = imagine_file(
        prior,
        imagining,
        wanted,
        out,
        seed,
        scale_at(prior, mag),
        overwrite=overwrite,
        progress=common.show_progress(),
    )
    rows, cols = settings.region[2:]
    report = {"out": str(out), "rows": rows, "columns": cols, "imagined": settings.imagined}
    if main:
        common.report(report, f"{out}: {rows}x{cols} tiles; use it as --embeddings {out}", json)
