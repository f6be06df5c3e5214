"""Many jobs of one folder, shared by workers."""

import csv
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from largegen.errors import InputError, LargegenError
from largegen.runtime import lock as locks
from largegen.runtime.job_status import read_status
from largegen.runtime.jobs import Job, digest_of, lock_path, read_record, run_jobs, stamp
from largegen.runtime.lock import lock

JOBS = [Job(f"{name}.txt", {"name": name}, digest_of(name), size) for name, size in zip("abc", (1, 1, 2), strict=True)]


def writer(folder, done=None, fails=()):
    def work(job):
        if job.settings["name"] in fails:
            raise LargegenError(f"{job.output}: cannot be")
        (folder / job.output).write_text(job.settings["name"])
        if done is not None:
            done.append(job.output)
        return {"length": 1}

    return work


def test_what_is_done_is_not_done_again(tmp_path):
    done = []
    run_jobs(tmp_path, JOBS, writer(tmp_path, done))
    records = run_jobs(tmp_path, JOBS, writer(tmp_path, done))
    assert done == ["a.txt", "b.txt", "c.txt"] and [r.report for r in records] == [{"length": 1}] * 3
    (tmp_path / "b.txt").unlink()
    run_jobs(tmp_path, [*JOBS[:2], Job("c.txt", {"name": "C"}, digest_of("C"))], writer(tmp_path, done))
    assert done[3:] == ["b.txt", "c.txt"] and (tmp_path / "c.txt").read_text() == "C"
    run_jobs(tmp_path, JOBS[:1], writer(tmp_path, done), overwrite=True)
    assert done[5:] == ["a.txt"]


def test_one_failure_ends_the_work_or_is_kept_for_the_end(tmp_path):
    with pytest.raises(LargegenError, match="cannot be"):
        run_jobs(tmp_path, JOBS, writer(tmp_path, fails="b"))
    assert not (tmp_path / "c.txt").exists()
    records = run_jobs(tmp_path, JOBS, writer(tmp_path, fails="b"), keep_going=True)
    assert [r.state for r in records] == ["done", "failed", "done"]
    with (tmp_path / "summary.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["output"], row["state"], row["name"]) for row in rows] == [
        ("a.txt", "done", "a"),
        ("b.txt", "failed", "b"),
        ("c.txt", "done", "c"),
    ]
    assert rows[1]["error"] == "b.txt: cannot be"
    assert [r.state for r in run_jobs(tmp_path, JOBS, writer(tmp_path))] == ["done"] * 3


def test_workers_share_the_jobs(tmp_path):
    jobs = [Job(f"{i}.txt", {"name": str(i)}, digest_of(i)) for i in range(20)]
    done = []
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: run_jobs(tmp_path, jobs, writer(tmp_path, done), wait=True), range(4)))
    assert sorted(done) == sorted(job.output for job in jobs)
    assert all(record.state == "done" for records in found for record in records)


def test_a_job_that_another_does_is_left_to_it(tmp_path):
    done = []
    with lock(tmp_path / ".jobs" / "a.txt.json"):
        records = run_jobs(tmp_path, JOBS, writer(tmp_path, done))
    assert done == ["b.txt", "c.txt"] and [r.state for r in records] == ["waiting", "done", "done"]


def held_elsewhere(folder, output):
    """The claim of a worker on another machine that gives no sign of life."""
    path = lock_path(folder, output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("123\nnode7\nanother-kernel\n")
    os.utime(path, (time.time() - 500,) * 2)
    return path


def test_the_claim_of_a_dead_worker_on_another_machine_is_taken_over_after_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_S", 0.5)
    held_elsewhere(tmp_path, "a.txt")
    done = []
    run_jobs(tmp_path, JOBS, writer(tmp_path, done))
    assert done == ["b.txt", "c.txt", "a.txt"]


def test_what_a_worker_left_that_was_killed_when_done_is_cleared_up(tmp_path):
    done = []
    run_jobs(tmp_path, JOBS, writer(tmp_path, done))
    left = lock_path(tmp_path, "a.txt")
    left.write_text("")
    run_jobs(tmp_path, JOBS, writer(tmp_path, done))
    assert len(done) == 3 and not left.exists()


def test_outputs_stay_in_the_folder_and_apart(tmp_path):
    for jobs in ([Job("../a")], [Job("/a")], [Job("a"), Job("a")]):
        with pytest.raises(InputError):
            run_jobs(tmp_path, jobs, writer(tmp_path))
    (tmp_path / "summary.csv").write_text("mine")
    with pytest.raises(InputError, match="summary"):
        run_jobs(tmp_path, JOBS, writer(tmp_path))
    assert (tmp_path / "summary.csv").read_text() == "mine"


def test_a_stamp_tells_a_changed_file_wherever_it_lies(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f").write_text("x")
        os.utime(tmp_path / folder / "f", (1, 1))
    first = stamp(tmp_path / "a" / "f")
    assert first == stamp(tmp_path / "b" / "f")
    (tmp_path / "a" / "f").write_text("y")
    assert first != stamp(tmp_path / "a" / "f")


def test_status_says_what_is_left_and_who_died(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    run_jobs(tmp_path, JOBS, writer(tmp_path, fails="b"), keep_going=True)
    record = tmp_path / ".jobs" / "a.txt.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"seconds": 30.0}))
    third = tmp_path / ".jobs" / "c.txt.json"
    third.write_text(json.dumps(json.loads(third.read_text()) | {"state": "running", "started": time.time() - 10}))
    held_elsewhere(tmp_path, "c.txt")
    found = read_status(tmp_path)
    assert [job.record.state for job in found.jobs] == ["done", "failed", "interrupted"] and found.left_s is None
    lock_path(tmp_path, "c.txt").unlink()
    with lock(third):
        found = read_status(tmp_path)
    assert found.count("running") == 1 and found.left_s == pytest.approx(50, abs=2)  # twice the size of a
    assert read_record(tmp_path, JOBS[0]).seconds == 30
