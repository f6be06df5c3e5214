"""`largegen sample`."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.reference_options import Reference
from largegen.errors import InputError
from largegen.sampling.settings import Imagining, Sampling

if TYPE_CHECKING:
    from largegen.models.model import Model

IMAGINED_PX = (4096, 4096)  # the picture that patches lie in where there is no reference


def sample(
    *,
    reference: Reference,
    imagining: Imagining,
    mag: Annotated[
        float | None, typer.Option(help="Magnification of the patches: 20, 10, 5, ...", show_default="the base")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, help="The same as a number: 0 is the base, 1 is half of it, ...")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Patches on the sheet.")] = 16,
    model: shared.ModelName = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="The sheet: .png, .jpg or .tif.", show_default="<slide>_samples_<magnification>.png"),
    ] = None,
    sampling: Annotated[Sampling, Fields("steps", "distilled", "seed")],
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale: 1 is none; higher values follow the reference more closely.",
            min=0.0,
            show_default=f"{Sampling.guidance}, and 1.75 under a CDM",
        ),
    ] = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen sample`; its purpose stands in commands.py.

    All are at one magnification, each conditioned on the embeddings at a random place of a reference, or of an
    invented grid of embeddings. Without a reference, a model with ZoomLDM's CDM invents the condition of each patch.
    """
    sampling = sampling if guidance is None else replace(sampling, guidance=guidance)
    sampling.check()
    chosen = reference.choose(imagining, sampling.seed, IMAGINED_PX)
    if mag is not None and level is not None:
        raise InputError("`mag`, `level`: give only one of them")
    from largegen.images.finished import check_before
    from largegen.images.sample_file import sample_file, sheet_size, token_file
    from largegen.models.model import load_model
    from largegen.models.token_prior import load_token_prior
    from largegen.runtime.distributed import require_single_process
    from largegen.sampling.tokens import under_tokens

    network = load_model(chosen.choose_model(model), device, precision)
    require_single_process(network.device)
    level = _level(network, mag, level)
    out = out or Path(f"{chosen.name}_samples_{network.level_names[level]}.png")
    check_before(out, overwrite, sheet_size(network, count), common.command_line())
    options: dict[str, Any] = {
        "command": common.command_line(),
        "overwrite": overwrite,
        "progress": common.show_progress(),
    }
    anything = not (reference.ref or reference.embeddings) and imagining == Imagining()
    cdm = load_token_prior(network.directory, network.device) if anything else None
    with ExitStack() as stack:
        if cdm:
            sampling = under_tokens(sampling) if guidance is None else sampling
            report = token_file(network, cdm, level, count, out, sampling, **options)
        else:
            opened = chosen.open(stack, network, common.show_progress())
            report = sample_file(network, opened, level, count, out, sampling, **options)
    common.report(report, f"{out}: {count} patches at {report['magnification']}", json)


def _level(model: "Model", mag: float | None, level: int | None) -> int:
    """Find the level that was asked for. Raises InputError for one that the model does not have."""
    if mag is not None:
        wanted = f"{mag:g}x"
        if wanted not in model.level_names:
            raise InputError(f"--mag {mag:g}: this model samples at {', '.join(model.level_names)}")
        return model.level_names.index(wanted)
    if level is not None and level >= model.levels:
        raise InputError(f"--level {level}: this model has levels 0 to {model.levels - 1}")
    return level or 0
