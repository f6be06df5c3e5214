"""`largegen eval`."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.flags import in_flags
from largegen.metrics.request import CropSettings, EvaluationConfig, EvaluationOutputs, SetsRequest, parse_metric
from largegen.slides.resolution import Resolution

if TYPE_CHECKING:
    from largegen.metrics.results import Evaluation


SETS = ("--real", "--fake")


class EvalCommand(typer.core.TyperCommand):
    """A command whose --real and --fake take several paths each, as a shell's wildcard gives them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, each path of a set with the set's flag before it."""
        return super().parse_args(ctx, repeated(args))


def repeated(args: list[str]) -> list[str]:
    """`--real A B --fake C` => `--real A --real B --fake C`."""
    found: list[str] = []
    name = None
    for arg in args:
        if arg.startswith("-"):
            name = next((known for known in SETS if arg.split("=")[0] == known), None)
        elif name and found[-1] != name:
            found.append(name)
        found.append(arg)
    return found


def eval(
    real: Annotated[
        list[Path],
        typer.Option(
            help="Real images: folders, images, slides, embedding files (for their slides), or one .npz of"
            " --save-stats; several may follow.",
            metavar="PATH...",
        ),
    ],
    fake: Annotated[
        list[Path],
        typer.Option(help="Generated images: folders, images, .tif, .dzi; several may follow.", metavar="PATH..."),
    ],
    *,
    metrics: Annotated[
        str,
        typer.Option(
            help="Comma-separated: patch-fid, crop-fid, clip-fid, kid, precision-recall, fd:ENCODER, kid:ENCODER,"
            " precision-recall:ENCODER, embedding-similarity, seam, guide-psnr, lpips. fd:vgg16 and lpips need the"
            " extra `perceptual`.",
            show_default="all that inputs and weights allow",
        ),
    ] = "",
    crops: Annotated[CropSettings, Fields("count", "size_px", "seed", count="--crops", size_px="--crop-px")],
    grid: Annotated[bool, typer.Option("--grid", help="Take crops side by side instead of at random places.")] = False,
    sets: SetsRequest,
    mag: Annotated[
        float | None, typer.Option(help="Compare at this magnification.", show_default="the generated images' own")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Compare at this many microns per pixel.")] = None,
    gsd: Annotated[float | None, typer.Option(help="Compare at this many metres per pixel (scenes).")] = None,
    real_mag: Annotated[
        float | None, typer.Option(help="Magnification of the real images, if their metadata lack it.")
    ] = None,
    real_mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the real images, likewise.")] = None,
    real_gsd: Annotated[float | None, typer.Option(help="Metres per pixel of the real scenes, likewise.")] = None,
    fake_mag: Annotated[
        float | None, typer.Option(help="Magnification of the generated images, if their metadata lack it.")
    ] = None,
    fake_mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the generated images, likewise.")] = None,
    fake_gsd: Annotated[float | None, typer.Option(help="Metres per pixel of the generated scenes, likewise.")] = None,
    config: EvaluationConfig,
    outputs: EvaluationOutputs,
    dry_run: shared.DryRun = False,
    json: shared.Json = False,
) -> int:
    """Run `largegen eval`; its purpose stands in commands.py.

    Computes all metrics that the inputs and the available weights allow, with confidence intervals, and says why others
    are left out. On several devices: accelerate launch --num_processes 2 -m largegen eval ...
    """
    names = [name for name in metrics.replace(" ", "").split(",") if name]
    wanted = tuple(dict.fromkeys(map(parse_metric, names)))
    from accelerate import PartialState

    from largegen.metrics.evaluate_files import evaluate_files, plan_files

    request = replace(
        sets,
        real=real,
        fake=fake,
        target=Resolution(mpp, mag, gsd),
        real_source=Resolution(real_mpp, real_mag, real_gsd),
        fake_source=Resolution(fake_mpp, fake_mag, fake_gsd),
    )
    config = replace(config, metrics=wanted, crops=replace(crops, placement="grid" if grid else "random"))
    if dry_run:
        plan_files(request, config, outputs, common.print_json)
        return 0
    tell = partial(_say, json=json)
    complete = evaluate_files(request, config, outputs, tell, in_flags, progress=common.show_progress())
    if outputs.report and not json and PartialState().is_main_process:
        typer.echo(f"{outputs.report}: report with images")
    return 0 if complete else 3


def _say(evaluation: "Evaluation", json: bool) -> None:
    if json:
        common.print_json(evaluation.as_dict())
        return
    from largegen.metrics.report.table import table_text

    typer.echo(table_text(evaluation))
