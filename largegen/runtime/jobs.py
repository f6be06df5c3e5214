"""Many jobs of one folder: which are done, failed or left; any number of processes, on any machines, share the work.

Whoever works on a job holds its lock, see lock.py. What is known of a job is one small file in `.jobs/`, below the
folder of the outputs: nothing else is needed to join the work, to go on after a kill, or to look how far it is.
"""

import csv
import hashlib
import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from largegen.errors import InputError, LockedError
from largegen.runtime.files import atomic, not_damaged, write_json
from largegen.runtime.lock import POLL_S, lock

log = logging.getLogger(__name__)

FOLDER = ".jobs"
LIST = "list.json"  # of all jobs
SUMMARY = "summary.csv"
STARTS_WITH = "output,state,"  # a summary that is ours to replace


@dataclass(frozen=True)
class Job:
    """A piece of work with an output of its own."""

    output: str  # path of its file in the folder, which names the job
    settings: dict[str, str] = field(default_factory=dict)  # by which it differs from the others, for people
    digest: str = ""  # of all that the output depends on
    size: float = 1.0  # of the work, beside that of the others


@dataclass(frozen=True)
class Record:
    """What is known of a job."""

    output: str
    state: str = "waiting"  # or running, done, failed; of status.py also interrupted
    digest: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    size: float = 1.0
    started: float = 0.0  # s since 1970
    seconds: float = 0.0  # that it took
    worker: str = ""
    error: str = ""
    report: dict[str, Any] = field(default_factory=dict)  # what the work gave


def stamp(path: Path) -> list[Any]:
    """Tell apart what a file, or the files of a directory, hold now and held before: by names, sizes and times.

    Where the path lies says nothing, so that it may be mounted elsewhere on another machine.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file, file.stat()) for file in files if file.is_file()]
    return [path.name, *((file.name, at.st_size, at.st_mtime_ns) for file, at in found)]


def digest_of(*about: object) -> str:
    """Return a short text that differs for jobs that differ."""
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:32]


def run_jobs(
    folder: Path,
    jobs: Sequence[Job],
    work: Callable[[Job], dict[str, Any]],
    *,
    keep_going: bool = False,
    overwrite: bool = False,
    wait: bool = False,
    say: Callable[[Exception], str] = str,
) -> list[Record]:
    """Do the jobs that nobody has done, or is doing; other processes may do the same at the same time.

    Jobs that are done stay done while their digest is the same. Those that failed before this call are tried again, and
    those of a worker that died are taken over.

    Args:
        folder: Of the outputs.
        jobs: All of them; each worker gives the same ones.
        work: Makes a job's output and returns what there is to say of it, as JSON.
        keep_going: Go on with the others where one fails.
        overwrite: Do also what was done before this call.
        wait: Return when all jobs are done, also those of other workers, not when none is left to begin.
        say: Puts an error into words.

    Returns:
        What is known of each job.

    Raises:
        InputError: For two jobs of one output, and a summary that would replace another file.
        Exception: Of a job that failed, unless `keep_going`.
    """
    began = time.time()
    _check_outputs(folder, jobs)
    _publish(folder, jobs)
    left = list(jobs)
    patient = False  # at first, jobs that have a lock are left to others; then dead workers' are taken over
    while left:
        busy = []
        for job in left:
            if _is_settled(folder, job, began, overwrite):
                if lock_path(folder, job.output).exists():  # perhaps of a worker that was killed just then
                    with suppress(LockedError), lock(_path(folder, job.output)):
                        pass  # which clears up
                continue
            if not patient and lock_path(folder, job.output).exists():
                busy.append(job)
                continue
            with ExitStack() as stack:
                try:
                    stack.enter_context(lock(_path(folder, job.output)))
                except LockedError:
                    busy.append(job)
                    continue
                if not _is_settled(folder, job, began, overwrite):
                    _do(folder, job, work, keep_going, say)
        if patient and busy:
            if not wait:
                log.info("%d of %d jobs are still being done by other workers", len(busy), len(jobs))
                break
            time.sleep(POLL_S)
        left, patient = busy, True
    return _write_summary(folder, jobs)


def _check_outputs(folder: Path, jobs: Sequence[Job]) -> None:
    once: set[str] = set()
    for job in jobs:
        if Path(job.output).is_absolute() or ".." in Path(job.output).parts:
            raise InputError(f"{job.output}: lies outside of {folder}")
        if job.output in once:
            raise InputError(f"{folder / job.output}: the output of two jobs")
        once.add(job.output)
    summary = folder / SUMMARY
    if summary.exists() and not summary.read_text(encoding="utf-8", errors="replace").startswith(STARTS_WITH):
        raise InputError(f"{summary}: no summary of jobs, and would be replaced by one; choose another `out`")


def _publish(folder: Path, jobs: Iterable[Job]) -> None:
    """Add the jobs to the list that lies in the folder, for whoever looks."""
    path = folder / FOLDER / LIST
    with lock(path, wait=True):
        known = {job.output: job for job in read_list(folder)}
        known |= {job.output: job for job in jobs}
        write_json(path, {"jobs": [asdict(job) for job in known.values()]})


def read_list(folder: Path) -> list[Job]:
    """Read which jobs a folder has; none where there is no list."""
    try:
        content = json.loads((folder / FOLDER / LIST).read_text(encoding="utf-8"))
        return [Job(**job) for job in content["jobs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        not_damaged(error, folder / FOLDER / LIST)
        return []


def _path(folder: Path, output: str) -> Path:
    return folder / FOLDER / f"{output}.json"


def lock_path(folder: Path, output: str) -> Path:
    """Name the file that the worker on a job holds."""
    return folder / FOLDER / f"{output}.json.lock"


def read_record(folder: Path, job: Job) -> Record:
    """Read what is known of a job; of one with another digest nothing is."""
    new = Record(job.output, digest=job.digest, settings=job.settings, size=job.size)
    try:
        content = json.loads(_path(folder, job.output).read_text(encoding="utf-8"))
        known = {one.name: content[one.name] for one in fields(Record) if one.name in content}
        found = replace(new, **known)
    except (OSError, ValueError, TypeError) as error:
        not_damaged(error, _path(folder, job.output))
        return new
    return found if found.digest == job.digest else new


def _is_settled(folder: Path, job: Job, began: float, overwrite: bool) -> bool:
    record = read_record(folder, job)
    of_this_run = record.started + record.seconds >= began
    if record.state == "done":
        return (of_this_run or not overwrite) and (folder / job.output).exists()
    return record.state == "failed" and of_this_run


def _do(
    folder: Path, job: Job, work: Callable[[Job], dict[str, Any]], keep_going: bool, say: Callable[[Exception], str]
) -> None:
    path, started = _path(folder, job.output), time.time()
    worker = f"process {os.getpid()} on {socket.gethostname()}"
    record = Record(job.output, "running", job.digest, job.settings, job.size, started, worker=worker)
    write_json(path, asdict(record))
    clock = time.monotonic()
    try:
        report = work(job)
    except Exception as error:
        seconds = round(time.monotonic() - clock, 2)
        write_json(path, asdict(replace(record, state="failed", seconds=seconds, error=say(error))))
        if not keep_going:
            raise
        log.warning("%s failed: %s", job.output, say(error))
    else:
        seconds = round(time.monotonic() - clock, 2)
        write_json(path, asdict(replace(record, state="done", seconds=seconds, report=report)))


def _write_summary(folder: Path, jobs: Sequence[Job]) -> list[Record]:
    """Write a table of all jobs, output, state, seconds, worker, error, and their settings; return what is known."""
    path = folder / SUMMARY
    names = list(dict.fromkeys(name for job in jobs for name in job.settings))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["output", "state", "seconds", "worker", "error", *names])
    with lock(path, wait=True):  # read under the lock: else an older state may be written last
        records = [read_record(folder, job) for job in jobs]
        for record in records:
            about = [record.output, record.state, record.seconds or "", record.worker, record.error]
            table.writerow([*about, *(record.settings.get(name, "") for name in names)])
        with atomic(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    return records
