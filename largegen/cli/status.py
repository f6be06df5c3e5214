"""`largegen status`: how far many jobs are."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.aligned import aligned


def status(
    folder: Annotated[
        Path, typer.Argument(help="Directory of the outputs, the --out of the command that was given many jobs.")
    ],
    json: shared.Json = False,
) -> None:
    """Run `largegen status`; its purpose stands in commands.py.

    One line for each job of `generate`, `zoom` or `embed`: its state, the time that it took or is taking, who does it,
    and why it failed. Jobs whose worker has died are interrupted: the same command again takes them over.
    """
    from largegen.runtime.job_status import STATES, JobStatus, read_status

    found = read_status(folder)
    counts = {state: found.count(state) for state in STATES}
    if json:
        jobs = [asdict(job.record) | {"seconds": job.seconds, "left_s": job.left_s} for job in found.jobs]
        common.print_json({"folder": str(folder), "counts": counts, "left_s": found.left_s, "jobs": jobs})
        return

    def line(job: JobStatus) -> list[str]:
        record = job.record
        took = "" if job.seconds is None else duration(job.seconds)
        left = "" if job.left_s is None else f", about {duration(job.left_s)} left"
        who = record.error or (record.worker if record.state == "running" else "")
        return [record.output, record.state, took + left, who]

    rows = [["output", "state", "time", ""], *map(line, found.jobs)]
    typer.echo(aligned(rows))
    counted = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    left = "" if found.left_s is None else f"; about {duration(found.left_s)} left"
    typer.echo(f"\n{len(found.jobs)} jobs: {counted}{left}")


def duration(seconds: float) -> str:
    """Write seconds as people do: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
