"""A run that is watched: `largegen view --watch` beside it, in a process of its own, whose faults are not the run's."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli.one_job import running_job
from largegen.errors import InputError

log = logging.getLogger(__name__)

Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Open a browser on the unfinished work: what is saved so far, and the time left. Needs the extra `view`.",
    ),
]
PATIENCE_S = 3.0
STDERR = 2  # the file descriptor: stdout is for what the run reports


@contextmanager
def watched(watch: bool, out: Path, model: Path | None = None) -> Iterator[None]:
    """Let a run be watched as long as the block lasts.

    Args:
        watch: whether it shall be.
        out: what the run makes.
        model: directory of the model that samples.
    """
    if not watch:
        yield
        return
    if running_job():
        raise InputError("`watch` follows one image, not many jobs; `largegen status` tells how far these are")
    more = ["--model", str(model)] if model else []
    command = [sys.executable, "-m", "largegen", "view", str(out), "--watch", "--until-eof", *more]
    try:
        viewer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=STDERR)
    except OSError as error:
        log.warning("it cannot be watched: %s", error)
        yield
        return
    try:
        yield
    finally:
        assert viewer.stdin is not None
        with suppress(OSError):
            viewer.stdin.close()
        try:
            viewer.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            viewer.kill()
