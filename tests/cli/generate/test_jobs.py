"""Many jobs by one `largegen generate`, and `largegen status`."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.images import pixels
from helpers.processes import start_two
from helpers.slides import save_slide, tissue_like

from largegen.cli import run


@pytest.fixture
def slides(tmp_path) -> Path:
    """A folder of two slides."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate("ab"):
        save_slide(folder / f"{name}.tif", tissue_like(600, 500, number), 0.5)
    return folder


@pytest.fixture
def many(model, cache, tmp_path, capfd):
    """The arguments of many quick jobs into tmp_path/images; `call` runs them: exit code, stdout, stderr."""

    class Many:
        out = tmp_path / "images"

        def arguments(self, *more, lines: str = "", command: str = "generate") -> list[str]:
            options = ["--model", model, "--out", self.out, "--steps", 2, "--device", "cpu", "--precision", "fp32"]
            if lines:
                (tmp_path / "jobs.csv").write_text(lines)
                options += ["--jobs", tmp_path / "jobs.csv"]
            return [command, *map(str, [*options, "--cache", cache, "--size", 128, *more])]

        def __call__(self, *more, **how) -> tuple[int, str, str]:
            capfd.readouterr()
            code = run(self.arguments(*more, **how))
            return code, *capfd.readouterr()

        def names(self) -> set[str]:
            return {path.name for path in self.out.iterdir() if path.name[0] != "."}

        def summary(self) -> list[dict[str, str]]:
            with (self.out / "summary.csv").open() as lines:
                return list(csv.DictReader(lines))

        def status(self) -> dict:
            capfd.readouterr()
            assert run(["status", str(self.out), "--json"]) == 0
            return json.loads(capfd.readouterr().out)

    return Many()


def files(*names: str) -> set[str]:
    return {name for each in names for name in (each, f"{each}.json")} | {"summary.csv"}


def test_a_directory_of_slides(many, slides):
    code, out, err = many("--ref", slides)
    assert code == 0, err
    assert many.names() == files("a_synthetic_128.tif", "b_synthetic_128.tif")
    assert out.splitlines() == [f"{many.out}/{name}_synthetic_128.tif: 128x128 px" for name in "ab"]
    assert [row["state"] for row in many.summary()] == ["done", "done"]
    before = {path: path.stat().st_mtime_ns for path in many.out.glob("*.tif")}
    code, out, _ = many("--ref", slides)
    assert code == 0 and out == "" and before == {path: path.stat().st_mtime_ns for path in before}


def test_the_lines_of_a_table(many, slides, generate, tmp_path):
    lines = f'slide,size,seed,region,out\n{slides}/a.tif,,3,,\n{slides}/a.tif,64x128,4,"64,128",in/here.png\n'
    code, out, _ = many("--json", lines=lines)
    first, second = json.loads(out)["jobs"]
    assert code == 0 and first["output"] == "a_synthetic_128_seed3.tif" and first["width"] == 128
    assert second["output"] == "in/here.png" and second["width"] == 64 and second["reference_xy"] == [64, 128]
    made_by = json.loads((many.out / "in/here.png.json").read_text())
    assert made_by["seed"] == 4 and "--seed=4" in made_by["command"] and "--jobs" not in made_by["command"]
    assert generate("--seed", 4, "--region", "64,128", ref=slides / "a.tif", size="64x128")[0] == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(many.out / "in/here.png"))


def test_failures_are_listed_and_the_others_done(many, slides):
    (slides / "bad.tif").write_text("not a slide")
    code, _, err = many("--ref", slides)
    assert code == 2 and "bad.tif" in err.splitlines()[-1]
    code, _, err = many("--ref", slides, "--keep-going")
    assert code == 3 and err.splitlines()[-1].startswith(f"error: {many.out}/bad_synthetic_128.tif: ")
    states = {row["output"]: row["state"] for row in many.summary()}
    assert states == {f"{name}_synthetic_128.tif": "failed" if name == "bad" else "done" for name in ("a", "b", "bad")}
    assert many.status()["counts"] == {"running": 0, "failed": 1, "interrupted": 0, "waiting": 0, "done": 2}
    save_slide(slides / "bad.tif", tissue_like(600, 500, 5), 0.5)
    assert many("--ref", slides, "--keep-going", "--overwrite")[0] == 0 and many.status()["counts"]["done"] == 3


def test_other_settings_are_other_jobs_and_replace_nothing(many, slides):
    assert many("--ref", slides)[0] == 0
    code, _, err = many("--ref", slides, "--seed", 5)
    assert code == 1 and "exists already" in err
    assert many("--ref", slides, "--seed", 5, "--overwrite")[0] == 0
    assert json.loads((many.out / "a_synthetic_128.tif.json").read_text())["seed"] == 5


def test_a_changed_slide_is_another_job(many, slides):
    assert many("--ref", slides)[0] == 0
    save_slide(slides / "a.tif", tissue_like(600, 500, 9), 0.5)
    assert many("--ref", slides, "--keep-going")[0] == 3
    assert many("--ref", slides, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("ref,speed\na.tif,3\n", ["line 2", "speed"]),
        ("ref,jobs\na.tif,x.csv\n", ["line 2", "jobs"]),
        ("ref,seed\na.tif,three\n", ["line 2", "--seed", "integer"]),
        ("ref,seed\na.tif\n", ["line 2", "cells"]),
        ("ref,seed\n", ["needs a header line, and lines below it"]),
        ("ref,guidance\na.tif,2\na.tif,3\n", ["line 2 and", "line 3", "column named out"]),
        ("ref,out\na.tif,../a.tif\n", ["outside"]),
        ("ref,out\na.tif,a.xyz\n", ["a.xyz", "suffix"]),
    ],
)
def test_a_table_that_cannot_be(many, lines, words):
    code, out, err = many(lines=lines)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words), err


def test_no_output_is_the_input_of_another_job(many, slides):
    many.out = slides
    code, _, err = many("--overwrite", lines=f"ref,out\n{slides}/a.tif,b.tif\n{slides}/b.tif,c.tif\n")
    assert code == 2 and "is an input" in err


def test_a_dry_run_of_many(many, slides):
    code, out, _ = many("--ref", slides, "-n")
    plans = json.loads(out)["jobs"]
    assert code == 0 and len(plans) == 2 and all(plan["tiles"] == 4 for plan in plans) and not many.out.exists()


def start(command: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "largegen", *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(reached, process: subprocess.Popen | None = None) -> None:
    for _ in range(6000):
        if reached():
            return
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("it did not happen")


def test_two_workers_share_the_jobs_and_a_killed_ones_are_taken_over(many, slides):
    lines = "ref,seed\n" + "".join(f"{slides}/a.tif,{seed}\n" for seed in range(4))
    how = "--save-every", 0, "--steps", 100
    command = many.arguments(*how, lines=lines)
    first = start(command)
    wait_until((many.out / ".jobs/a_synthetic_128_seed0.tif.json").exists, first)
    first.kill()
    first.communicate()
    wait_until(lambda: many.status()["counts"]["interrupted"] == 1)  # by its silence
    second = start(command)
    wait_until(lambda: many.status()["counts"]["running"], second)
    code, own, err = many(*how, lines=lines)
    others, said = second.communicate(timeout=900)
    assert code == second.returncode == 0, err + said
    done = [*own.splitlines(), *others.splitlines()]
    assert len(done) == len(set(done)) == 4
    assert many.status()["counts"]["done"] == 4 and not list(many.out.rglob("*.lock"))


def test_two_processes_of_a_launcher_share_the_jobs(many, slides):
    (slides / "bad.tif").write_text("not a slide")
    program = f"from largegen.cli import main; main({many.arguments('--ref', slides, '--keep-going')})"
    both = start_two(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = [process.communicate(timeout=900) for process in both]
    assert [process.returncode for process in both] == [3, 0], said  # the first one reports
    assert said[0][1].count("error: ") == 1, said
    assert sorted(line for out, _ in said for line in out.splitlines()) == [
        f"{many.out}/{name}_synthetic_128.tif: 128x128 px" for name in "ab"
    ]
    assert many.status()["counts"] == {"running": 0, "failed": 1, "interrupted": 0, "waiting": 0, "done": 2}


def test_sigterm_saves_and_the_same_command_goes_on(many, slides):
    how = "--ref", slides, "--save-every", 1000, "--steps", 30
    process = start(many.arguments(*how))
    wait_until((many.out / "a_synthetic_128.tif.lock").exists, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 143 and "same command again" in err and "Traceback" not in err
    assert many.status()["counts"]["interrupted"] == 1
    code, out, err = many(*how)
    assert code == 0 and len(out.splitlines()) == 2, err


def test_the_table_of_status(many, slides, capfd):
    assert many("--ref", slides)[0] == 0
    assert run(["status", str(many.out)]) == 0
    first, *rows, _, last = capfd.readouterr().out.splitlines()
    assert first.split() == ["output", "state", "time"] and last == "2 jobs: 2 done"
    assert [row.split()[:2] for row in rows] == [[f"{name}_synthetic_128.tif", "done"] for name in "ab"]
    assert run(["status", str(slides)]) == 2 and "no jobs" in capfd.readouterr().err
