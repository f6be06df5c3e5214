"""Options that several commands share, and what -v, -q, --json and --config do in all of them."""

import functools
import inspect
import json
import logging
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli.derived import Command, with_parameters
from largegen.cli.flags import in_flags, speak_for
from largegen.cli.one_job import running_job
from largegen.errors import InputError, LargegenError
from largegen.models.encoder_registry import ENCODER_WEIGHTS
from largegen.runtime.outputs import forget_inputs, protect
from largegen.runtime.signals import EXIT_TERMINATED, Terminated
from largegen.slides.resolution import Resolution

if TYPE_CHECKING:
    import torch

log = logging.getLogger("largegen")


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the package's messages of `level` and above to stderr, one per line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    log.handlers[:] = [handler]
    log.setLevel(level)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + in_flags(super().format(record))


def _on_verbose(count: int) -> int:
    if count:
        set_up_logging(logging.DEBUG)
    return count


def _on_quiet(quiet: bool) -> bool:
    if quiet:
        set_up_logging(logging.ERROR)
    return quiet


def show_progress() -> bool:
    """Whether progress bars are wanted: not under -q (tqdm itself hides them where stderr is no terminal)."""
    return log.isEnabledFor(logging.WARNING)


def is_main_process(device: "torch.device") -> bool:
    """Tell whether this process is the one that reports; the others print errors only."""
    from largegen.runtime.distributed import process_group

    main = process_group(device).is_main_process
    if not main:
        set_up_logging(logging.ERROR)
    return bool(main)


def command_line() -> str:
    """Quote this command as images record it; of one job of many, the command that does it alone."""
    job = running_job()
    return shlex.join(["largegen", *(job.arguments if job else sys.argv[1:])])


OUTPUTS = ("out", "report", "save_stats", "cache")  # options that name what is written; other paths are inputs
INPUTS = ("source", "model", "vae", "init_from")  # texts that may be paths


def protect_inputs(options: Mapping[str, Any]) -> None:
    """Let no output of the command that begins be one of the paths among its options."""
    forget_inputs()
    for name, value in options.items():
        paths = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Path)]
        if name in INPUTS and isinstance(value, str):
            paths += [Path(value), Path(value) / "model"]
        if name not in OUTPUTS and paths:
            from largegen.slides.find import belonging

            for path in paths:
                protect([path, *belonging(path)])


def report(content: dict[str, Any], text: str, json: bool) -> None:
    """Print what was done, as a JSON object or as a line of text."""
    if job := running_job():
        job.reports.append((content, text))
    elif json:
        print_json(content)
    elif text:
        typer.echo(text)


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout; paths and the like become strings."""
    if job := running_job():
        job.reports.append((content, ""))
        return
    print(json.dumps(content, indent=2, default=str))


def _on_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a TOML file the defaults of this command's options; options on the command line win.

    Keys are option names without the dashes in front (`batch-size` or `batch_size`). A table named after a
    command holds values for that command only, so one file can serve a chain of commands. Raises InputError
    for a file that cannot be read and for a key that this command does not know.
    """
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows begin files with a mark
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not a TOML file: {error}") from error
    command, commands = str(context.info_name), getattr(context.parent and context.parent.command, "commands", ())
    values = {key: value for key, value in content.items() if not isinstance(value, dict)}
    for table, entries in content.items():
        if not isinstance(entries, dict):
            continue
        if table.replace("_", "-") == command:
            values |= entries
        elif table.replace("_", "-") not in commands:
            raise InputError(f"--config {path}: [{table}] is not a command")
    options = [parameter for parameter in context.command.params if parameter.param_type_name == "option"]
    names = {_key(name): option.name for option in options for name in (option.name, *option.opts)}
    for key in values:
        if names.get(_key(key)) in (None, "config"):
            raise InputError(f"--config {path}: {command} has no option {key.replace('_', '-')!r}")
    by_name = {option.name: option for option in options}
    defaults = {}
    for key, value in values.items():
        option = by_name[names[_key(key)]]
        defaults[option.name] = _default(option, value, f"--config {path}: {key.replace('_', '-')}")
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _default(option: Any, value: Any, what: str) -> Any:
    """Check the type of a value of a TOML file, and make it what the option takes as a default.

    Raises:
        InputError: For a value that Click would take for another: true for 1, 2.5 for 2.
    """
    if option.multiple and not isinstance(value, list):
        value = [value]  # one where several may be
    elif isinstance(value, list) and not option.multiple and option.nargs == 1:
        raise InputError(f"{what}: takes one value, not a list")
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, bool | int | float | str):
            raise InputError(f"{what}: {one} is none of text, number, true or false")
        if isinstance(one, bool) and not (option.is_flag or option.count):
            raise InputError(f"{what}: takes a value, not {str(one).lower()}")
        if option.is_flag and not isinstance(one, bool):
            raise InputError(f"{what}: takes true or false, not {one}")
        if isinstance(option.default, int) and isinstance(one, float) and not one.is_integer():
            raise InputError(f"{what}: {one} is no whole number")
    return value


def _key(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with values for any of these options; options on the command line take precedence.",
        callback=_on_config,
        is_eager=True,
        metavar="RUN.TOML",
    ),
]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, callback=_on_verbose, show_default=False, help="Print more messages."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_on_quiet, help="Print nothing but errors; no progress bars.")
]
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


def _common(context: typer.Context, config: Config = None, verbose: Verbose = 0, quiet: Quiet = False) -> None:
    """Take the options that every command has; their callbacks do all the work."""


def with_common_options(function: Command) -> Command:
    """Give a command `--config`, `-v` and `-q` without its having to declare them; messages speak of its flags."""
    own = inspect.signature(function, eval_str=True).parameters
    added = {k: p for k, p in inspect.signature(_common).parameters.items() if k not in own}

    @functools.wraps(function)
    def command(context: typer.Context, **options: Any) -> Any:
        speak_for(context.command)
        protect_inputs(options)
        try:
            given = options | {"context": context}
            return function(**{name: value for name, value in given.items() if name in own})
        except Terminated as error:  # Typer would take it for Ctrl-C
            raise typer.Exit(EXIT_TERMINATED) from error

    return with_parameters(command, [*own.values(), *added.values()])


def one_by_one(
    paths: list[Path], work: Callable[[Path], dict[str, Any]], keep_going: bool, what: str
) -> list[dict[str, Any]]:
    """Collect the result of `work` for each path, or with `keep_going` its error, under the path as `what`."""
    results = []
    for path in paths:
        try:
            results.append(work(path))
        except LargegenError as error:
            if not keep_going or len(paths) == 1:
                raise
            log.error("%s", error)
            results.append({what: str(path), "error": in_flags(str(error))})
    return results
