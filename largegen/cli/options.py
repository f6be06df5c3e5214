"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from largegen.cli.common import command_line, show_progress
from largegen.errors import InputError
from largegen.models.encoder_registry import ENCODER_WEIGHTS
from largegen.slides.resolution import Resolution

if TYPE_CHECKING:
    from largegen.images.run import Writing

Value = TypeVar("Value")

EmbeddingsOut = Annotated[Path, typer.Option("--out", help="Directory for the embedding files, <slide>.h5.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search directories with all folders below them.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Do nothing; print the effective settings and an estimate of time, memory and disk as JSON.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
Format = Annotated[str, typer.Option("--format", help="h5, or h5ad: AnnData beside it, as LazySlide's feature tables.")]
SaveEvery = Annotated[float, typer.Option(min=0.0, help="Seconds between saves of the unfinished canvas.")]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Continue with the other inputs when one fails; the exit code is then 3."),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="auto, tissue (also called starter), aerial, or a model directory; auto: what suits the reference.",
    ),
]
Image = Annotated[
    Path | None,
    typer.Argument(help="Slide, scene or image; or a directory of many.", metavar="IMAGE", show_default=False),
]
Corner = Annotated[
    str | None,
    typer.Option(
        "--region",
        help="X,Y: top-left corner in level-0 pixels; with --embeddings the nearest corner of a tile.",
        show_default="most tissue",
    ),
]
Mag = Annotated[
    float | None,
    typer.Option(help="Work at this magnification: 20 is 0.5 um/px (slides).", show_default="20 for slides"),
]
Mpp = Annotated[float | None, typer.Option(help="Work at this many microns per pixel (slides).")]
Gsd = Annotated[
    float | None,
    typer.Option(help="Work at this many metres per pixel (scenes).", show_default="the scene's own"),
]
SourceMpp = Annotated[
    float | None,
    typer.Option(help="Microns per pixel of the input, if its metadata lack it or are wrong."),
]
SourceMag = Annotated[
    float | None, typer.Option(help="Magnification of the input, if its metadata lack it or are wrong.")
]
SourceGsd = Annotated[
    float | None,
    typer.Option(help="Metres per pixel of the input scene, if its metadata lack it or are wrong."),
]
ExportPrecision = Annotated[str, typer.Option(help="Precision of the exported weights: fp32, fp16 or bf16.")]
EncoderWeights = Annotated[Path | None, typer.Option(help=ENCODER_WEIGHTS.help)]


def required(value: Value | None, what: str) -> Value:
    """Return what every job must be given, be it by a table of many; `what` is it, for the message.

    Raises:
        InputError: It was not given.
    """
    if value is None:
        raise InputError(f"give {what}")
    return value


@dataclass(frozen=True)
class RunOptions:
    """How a command that makes one image runs."""

    save_every: SaveEvery = 30.0
    device: Device = "auto"
    precision: Precision = "auto"
    overwrite: Overwrite = False
    dry_run: DryRun = False
    json: Json = False

    @property
    def writing(self) -> "Writing":
        """How the image's file is written."""
        from largegen.images.run import Writing

        return Writing(command_line(), self.overwrite, show_progress(), self.save_every)


@dataclass(frozen=True)
class SourceOptions:
    """The resolution of the input, where its metadata lack it."""

    source_mpp: SourceMpp = None
    source_mag: SourceMag = None
    source_gsd: SourceGsd = None

    def source(self) -> Resolution:
        """Return it as `open_slide` takes it."""
        return Resolution(self.source_mpp, self.source_mag, self.source_gsd)


@dataclass(frozen=True)
class ResolutionOptions(SourceOptions):
    """The resolution to work at, and that of the input."""

    mag: Mag = None
    mpp: Mpp = None
    gsd: Gsd = None

    def target(self) -> Resolution:
        """Return the resolution to work at. Raises InputError for several, and for one that is not positive."""
        found = Resolution(self.mpp, self.mag, self.gsd)
        found.check()
        return found
