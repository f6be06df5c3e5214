"""What all commands have in common: -v, -q, messages, reports, and inputs that no output replaces."""

import functools
import inspect
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli.config_file import Config
from largegen.cli.derived import Command, with_parameters
from largegen.cli.flags import in_flags, speak_for
from largegen.cli.one_job import running_job
from largegen.errors import InputError, LargegenError, message
from largegen.runtime.outputs import forget_inputs, protect
from largegen.runtime.signals import EXIT_TERMINATED, Terminated

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


# These name what is written; other paths are inputs.
OUTPUTS = ("out", "report", "save_stats", "save_directions", "cache", "export")
INPUTS = ("source", "mask", "model", "vae", "init_from")  # texts that may be paths


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


def wants_h5ad(format_: str) -> bool:
    """Tell whether AnnData is wanted, too. Raises InputError for an unknown format, and where anndata is missing."""
    if format_ not in ("h5", "h5ad"):
        raise InputError(f"--format {format_}: h5 or h5ad")
    if format_ == "h5ad":
        from largegen.embeddings.anndata_file import require_extra

        require_extra()
    return format_ == "h5ad"


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


Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, callback=_on_verbose, show_default=False, help="Print more messages."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_on_quiet, help="Print nothing but errors; no progress bars.")
]


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
        except (LargegenError, OSError) as error:
            if not keep_going or len(paths) == 1:
                raise
            log.error("%s", message(error))
            results.append({what: str(path), "error": in_flags(message(error))})
    return results
