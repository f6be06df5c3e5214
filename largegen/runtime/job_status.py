"""How far the jobs of a folder are: what is done, running, failed and left, and how long it will take."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from largegen.errors import InputError
from largegen.runtime.jobs import Record, lock_path, read_list, read_record
from largegen.runtime.lock import living

STATES = ("running", "failed", "interrupted", "waiting", "done")


@dataclass(frozen=True)
class JobStatus:
    """A job as it is now."""

    record: Record
    seconds: float | None  # that it took, or is taking; None: not begun
    left_s: float | None  # until it is done, once begun; None: not known


@dataclass(frozen=True)
class FolderStatus:
    """All jobs of a folder as they are now."""

    jobs: list[JobStatus]
    left_s: float | None  # until all are done by those who work now; None: not known, or nobody does

    def count(self, state: str) -> int:
        """Count the jobs in a state."""
        return sum(job.record.state == state for job in self.jobs)


def read_status(folder: Path) -> FolderStatus:
    """Read how far the jobs of a folder are.

    Times left are told from the jobs that are done, in proportion to the sizes of their outputs. A worker that gives no
    sign of life for a few seconds has died: its job counts as interrupted.

    Raises:
        InputError: For a folder without jobs.
    """
    records = [read_record(folder, job) for job in read_list(folder)]
    if not records:
        raise InputError(f"{folder}: no jobs were given here; `largegen generate --jobs` and others write their list")
    running = {r.output: lock_path(folder, r.output) for r in records if r.state == "running"}
    alive = living(running.values())
    records = [
        replace(r, state="interrupted") if r.output in running and running[r.output] not in alive else r
        for r in records
    ]
    done = [r for r in records if r.state == "done"]
    rate = sum(r.seconds for r in done) / sum(r.size for r in done) if done else None
    now = time.time()
    jobs = [_job_status(record, rate, now) for record in records]
    workers = sum(job.record.state == "running" for job in jobs)
    if rate is None or not workers:
        return FolderStatus(jobs, None)
    left = [job.left_s for job in jobs if job.left_s is not None]
    begin = [rate * r.size for r in records if r.state in ("waiting", "interrupted")]
    return FolderStatus(jobs, max([sum([*left, *begin]) / workers, *left]))


def _job_status(record: Record, rate: float | None, now: float) -> JobStatus:
    if record.state in ("done", "failed"):
        return JobStatus(record, record.seconds, None)
    if record.state != "running":
        return JobStatus(record, None, None)
    seconds = max(0.0, now - record.started)
    return JobStatus(record, seconds, None if rate is None else max(0.0, rate * record.size - seconds))
