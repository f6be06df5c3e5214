"""`--processes`: a command shared by several processes of this machine, which it starts itself."""

import functools
import inspect
import sys
from typing import Annotated, Any

import typer

from largegen.cli.derived import Command, with_parameters
from largegen.runtime.launch import is_launched, run_in_processes

Processes = Annotated[
    int,
    typer.Option(
        min=1,
        help="Processes of this machine that share the work; its cores are divided among them. Each holds the model.",
    ),
]


def with_processes(function: Command) -> Command:
    """Give a command `--processes`, with which it starts itself so many times and waits."""
    own = inspect.signature(function, eval_str=True).parameters
    added = inspect.signature(_several).parameters

    @functools.wraps(function)
    def command(processes: int, **options: Any) -> Any:
        if processes == 1 or is_launched():
            return function(**options)
        code, said = run_in_processes(processes, sys.argv[1:])
        if said:
            typer.echo(said, err=True)
        sys.exit(code)  # the first process has said why

    return with_parameters(command, [*own.values(), *added.values()])


def _several(processes: Processes = 1) -> None:
    """Take the number of processes."""
