"""The command line: one file per command. Here it starts, and errors become messages and exit codes."""

import errno
import io
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from largegen.cli.commands import Group
from largegen.cli.flags import in_flags
from largegen.errors import LargegenError, message
from largegen.runtime.private_api import load_diffusers_sparingly, usage_error
from largegen.runtime.signals import EXIT_TERMINATED, heed_sigterm
from largegen.runtime.threads import wait_asleep
from largegen.version import __version__

RESUMABLE = (
    *("embed", "features", "generate", "zoom", "upscale", "edit", "grow", "augment"),
    *("train", "train-vae", "train-encoder", "train-prior", "distill"),
)
RESUME_HINT = "the same command again resumes where it stopped (training: with --resume latest)"
START_OVER_HINT = "nothing is kept, and the same command starts over"

UsageError: Any = usage_error()


app = typer.Typer(
    cls=Group,
    help="Generate large histopathology and satellite images from self-supervised embeddings.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 some inputs failed, 130 interrupted, 143 SIGTERM.",
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
    from largegen.cli.common import set_up_logging  # here, as --help does without it

    set_up_logging()  # -v and -q of the command change it
    if version:
        typer.echo(f"largegen {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the code that `run` gives."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that a pipe's encoding on Windows lacks
    heed_sigterm()
    wait_asleep()
    load_diffusers_sparingly()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; every failure is one line on stderr.

    0 done, 1 failed, 2 wrong usage or input, 3 some of several inputs failed, 130 interrupted, 143 terminated.
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
        return _fail(error, message(error), 1)
    except UnicodeEncodeError as error:
        name = error.object.encode(errors="backslashreplace").decode()
        return _fail(error, f"{name}: this file name is no UTF-8, which not all libraries can open; rename it", 2)
    except Exception as error:  # a bug: still one line, and how to see more
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(error, "out of memory on the device; try a smaller --batch-size", 1)
        text = f"unexpected {type(error).__name__}: {error}; LARGEGEN_DEBUG=1 shows where"
        return _fail(error, text, 1)
    if code in (130, EXIT_TERMINATED):
        command, *_ = sys.argv[1:] if arguments is None else arguments
        how = "interrupted" if code == 130 else "terminated by SIGTERM"
        print(f"{how}; {RESUME_HINT if command in RESUMABLE else START_OVER_HINT}", file=sys.stderr)
    return code


def _fail(error: BaseException, text: str, code: int) -> int:
    if os.environ.get("LARGEGEN_DEBUG") == "1":
        traceback.print_exception(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return code
