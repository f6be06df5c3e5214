"""The command line: one file per command. Here they are registered, and errors become messages and exit codes."""

import errno
import functools
import importlib
import inspect
import io
import keyword
import logging
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from largegen.cli.derived import Command, with_derived_options, with_parameters
from largegen.cli.flags import in_flags, speak_for
from largegen.cli.options import Config, Quiet, Verbose, set_up_logging
from largegen.errors import LargegenError
from largegen.runtime.private_api import usage_error
from largegen.version import __version__

# The commands in the order of the work, by stage, each with an example of its use.
STAGES = {
    "Prepare": {
        "embed": "largegen embed slides/ --out embeddings/ --preview",
        "import": "largegen import trident/ --out embeddings/ --encoder uni_v1",
        "encoders": "largegen encoders",
        "convert": "largegen convert ZoomLDM/brca --out models/zoomldm",
    },
    "Train": {
        "train": "largegen train embeddings/ --vae runs/vae --out runs/mine",
        "train-vae": "largegen train-vae slides/ --out runs/vae",
        "train-encoder": "largegen train-encoder slides/ --out runs/encoder",
    },
    "Generate": {
        "generate": "largegen generate --ref slide.svs --size 4096 --out image.tif",
        "zoom": "largegen zoom --ref slide.svs --size 4096 --out image.tif",
        "sample": "largegen sample --ref slide.svs --mag 5 --out sheet.png",
    },
    "Evaluate": {
        "eval": "largegen eval --real slide.svs --fake image.tif --report report.html",
        "info": "largegen info image.tif",
    },
}
COMMANDS = tuple(name for stage in STAGES.values() for name in stage)

RESUMABLE = ("embed", "train", "train-vae", "train-encoder", "generate", "zoom")
RESUME_HINT = "the same command again resumes where it stopped (training: with --resume latest)"
START_OVER_HINT = "nothing is kept, and the same command starts over"

UsageError: Any = usage_error()


class Group(typer.core.TyperGroup):
    """The commands, listed by stage: as rich would in panels, but in plain text."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section of the help for each stage."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        for stage, names in STAGES.items():
            with formatter.section(stage):
                rows = [(name, self.commands[name].get_short_help_str(limit)) for name in names]
                formatter.write_dl(rows, col_max=max(map(len, self.commands)), col_spacing=2)


app = typer.Typer(
    cls=Group,
    help="Generate large histopathology and satellite images from self-supervised embeddings.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 some inputs failed, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain help: importing rich would double the time of --help
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version or the help, where no command is given."""
    set_up_logging(logging.INFO)  # -v and -q of the command change it
    if version:
        typer.echo(f"largegen {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _common(context: typer.Context, config: Config = None, verbose: Verbose = 0, quiet: Quiet = False) -> None:
    """Take the options that every command has; their callbacks do all the work."""


def with_common_options(function: Command) -> Command:
    """Give a command `--config`, `-v` and `-q` without its having to declare them; messages speak of its flags."""
    own = inspect.signature(function, eval_str=True).parameters
    added = {k: p for k, p in inspect.signature(_common).parameters.items() if k not in own}

    @functools.wraps(function)
    def command(context: typer.Context, **options: Any) -> Any:
        speak_for(context.command)
        return function(**{name: value for name, value in options.items() if name in own})

    return with_parameters(command, [*own.values(), *added.values()])


for _stage, _examples in STAGES.items():
    for _name, _example in _examples.items():
        _stem = _name.replace("-", "_") + "_" * keyword.iskeyword(_name)
        _module = importlib.import_module(f"largegen.cli.{_stem}")
        app.command(
            _name,
            cls=_module.EvalCommand if _name == "eval" else None,
            rich_help_panel=_stage,
            epilog=f"\b\nExample:\n  {_example}",
        )(with_common_options(with_derived_options(getattr(_module, _stem))))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that `run` gives."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that a pipe's encoding on Windows lacks
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; every failure is one line on stderr.

    0 done, 1 failed, 2 wrong usage or input, 3 some of several inputs failed, 130 interrupted.
    With LARGEGEN_DEBUG=1 in the environment the traceback is printed as well.
    """
    try:
        code = app(arguments, prog_name="largegen", standalone_mode=False)
        code = code if isinstance(code, int) else 0
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "largegen"
        return _fail(error, f"{error.format_message().rstrip('.')}; see `{where} --help`", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except LargegenError as error:
        return _fail(error, in_flags(str(error)), error.exit_code)
    except MemoryError as error:
        return _fail(error, "out of memory; try a smaller --batch-size", 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            return 1
        return _fail(error, str(error) or type(error).__name__, 1)
    except Exception as error:  # a bug: still one line, and how to see more
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(error, "out of memory on the device; try a smaller --batch-size", 1)
        text = f"unexpected {type(error).__name__}: {error}; LARGEGEN_DEBUG=1 shows where"
        return _fail(error, text, 1)
    if code == 130:
        command, *_ = sys.argv[1:] if arguments is None else arguments
        print(f"interrupted; {RESUME_HINT if command in RESUMABLE else START_OVER_HINT}", file=sys.stderr)
    return code


def _fail(error: BaseException, text: str, code: int) -> int:
    if os.environ.get("LARGEGEN_DEBUG") == "1":
        traceback.print_exception(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
