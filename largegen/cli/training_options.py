"""Options that the training commands share, and how they train: or say what they would train."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.watch import Watch, watched
from largegen.slides.resolution import check_only_one
from largegen.training.config import LoopConfig

if TYPE_CHECKING:
    from largegen.slides.slide import Slide
    from largegen.training.task import Task

Loop = Annotated[LoopConfig, Fields(schedule="--lr-schedule")]
SlidePaths = Annotated[list[Path], typer.Argument(help="Slides, scenes or directories of them.", metavar="SLIDE...")]


@dataclass(frozen=True)
class Run:
    """Where a training run goes, and how it is reported."""

    out: Annotated[Path, typer.Option(help="Run directory: checkpoints, metrics, samples, model/.")]
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "-n", help="Do nothing; print the effective settings, tiles, parameters and disk as JSON."
        ),
    ] = False
    watch: Watch = False
    json: shared.Json = False

    def check(self, config: LoopConfig) -> None:
        """Check what can be known before the work that prepares a run. Raises InputError or OutputError."""
        from largegen.training.run import check_run

        if not self.dry_run:
            check_run(self.out, config)

    def train(self, task: "Task", config: LoopConfig, result: str) -> None:
        """Train `task` and report it with `result`, a text with `{model}` in it for the trained model's directory."""
        from accelerate import PartialState

        from largegen.training.run import plan, train

        if self.dry_run:
            report = plan(task, self.out, config)
        else:
            with watched(self.watch and os.environ.get("RANK", "0") == "0", self.out):
                report = train(task, self.out, config)
        if not PartialState().is_main_process:
            return
        if self.dry_run or self.json:
            common.print_json(report)
        else:
            typer.echo(f"{report['model']}: {result.format(**report)}")


@dataclass(frozen=True)
class SlideOptions(shared.ResolutionOptions):
    """At what resolution slides are taken."""

    recursive: shared.Recursive = False
    native: Annotated[
        bool, typer.Option("--native", help="Take every slide at its own full resolution, whatever that is.")
    ] = False

    def open(self, paths: list[Path]) -> "list[tuple[Slide, float]]":
        """Open slides, scenes and directories of them: (slide, level-0 px per px at the resolution asked for)."""
        from largegen.slides.find import find_files
        from largegen.slides.slide import open_slide

        check_only_one(native=self.native, mag=self.mag, mpp=self.mpp, gsd=self.gsd)
        target = self.target()
        found = find_files(paths, recursive=self.recursive, by_products=False)
        slides = [open_slide(path, *self.source()) for path in found]
        return [(slide, 1.0 if self.native else target.downsample(slide)) for slide in slides]
