"""`largegen eval` on two processes: the figures and exit codes of one, whatever is damaged, and one voice."""

import json
import re
import subprocess

import numpy as np
import pytest
from helpers.models import save_encoder
from helpers.processes import start_two
from helpers.slides import save_slide

from largegen.cli import run

PROGRAM = """
import contextlib, io, json, sys
from largegen.cli import run

class Terminal(io.StringIO):
    def isatty(self):
        return True

for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), Terminal()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def on_two(commands):
    """Run commands, one after another, in the same two processes: of each command, (code, out, err) in both."""
    started = start_two(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for process in started:
        process.stdin.write(json.dumps([list(map(str, command)) for command in commands]))
        process.stdin.close()
        process.stdin = None
    try:
        both = [process.communicate(timeout=180)[0].splitlines() for process in started]
    finally:
        for process in started:
            process.kill()
    assert len(both[0]) == len(both[1]) == len(commands)
    return [tuple(map(json.loads, lines)) for lines in zip(*both, strict=True)]


def images(folder, count, size, tint):
    """Noise, each image about a colour of its own."""
    folder.mkdir()
    rng = np.random.default_rng(tint)
    for number in range(count):
        colour = rng.integers(0, 150 + tint, 3)
        pixels = colour + rng.integers(0, 60, (size, size, 3))
        save_slide(folder / f"{number:02}.png", pixels.astype(np.uint8))
    return folder


def damaged(folder, *numbers):
    for number in numbers:
        path = folder / f"{number:02}.png"
        path.write_bytes(path.read_bytes()[:-1500])
    return folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Name => arguments. Batches of 4 patches: process 0 has 0..3, 8..11, ... and process 1 has 4..7, 12..15, ..."""
    folder = tmp_path_factory.mktemp("eval")
    encoder = f"local-dir:{save_encoder(folder / 'encoder')}"
    common = ["--crop-px", 32, "--batch-size", 4, "--device", "cpu", "--replicates", 3, "--json"]
    metrics = ["--metrics", f"fd:{encoder},kid:{encoder},precision-recall:{encoder}"]
    large = [images(folder / "large-real", 3, 300, 0), images(folder / "large-fake", 2, 512, 40)]
    small = [images(folder / "real", 30, 32, 0), damaged(images(folder / "fake", 30, 32, 40), 5, 8)]
    uneven = images(folder / "uneven", 4, 100, 0)
    save_slide(uneven / "small.png", np.zeros((20, 20, 3), np.uint8))
    files = ["--save-stats", folder / "real.npz", "--report", folder / "report.html", "--overwrite"]

    def command(real, fake, *more):
        return ["eval", "--real", real, "--fake", fake, *common, *more]

    return {
        "all metrics": command(*large, "--encoder", encoder, "--crops", 150, *files),
        "damaged": command(*small, *metrics),
        "without the damaged": command(*small, *metrics, "--keep-going"),
        "without the small": command(uneven, large[1], *metrics, "--crops", 50, "--keep-going"),
        "unwritable": command(*large, *metrics, "--crops", 10, "--report", "/dev/full/report.html"),
        "no network": command(*small, "--metrics", "patch-fid"),
    }


@pytest.fixture(scope="module")
def two(commands):
    return dict(zip(commands, on_two(commands.values()), strict=True))


@pytest.fixture
def one(commands, capsys):
    def once(name):
        code = run([*map(str, commands[name])])
        return code, *capsys.readouterr()

    return once


def figures(printed):
    evaluation = json.loads(printed)
    found = {
        (level["level"], figure["metric"], figure["name"], key): value
        for level in evaluation["levels"]
        for figure in level["figures"]
        for key, value in figure.items()
        if isinstance(value, float | int)
    }
    return found, [evaluation[key] for key in ("real", "fake", "left_out", "warnings")]


@pytest.mark.parametrize("name", ["all metrics", "without the damaged", "without the small"])
def test_two_processes_find_what_one_finds_and_the_main_one_says_it(name, one, two):
    alone, (main, other) = one(name), two[name]
    assert main[0] == other[0] == alone[0] == (0 if name == "all metrics" else 3)
    assert other[1] == "" and other[2] == ""
    (expected, said), (found, told) = figures(alone[1]), figures(main[1])
    assert len(expected) > 10 and told == said
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_all_that_was_left_out_is_reported(two):
    (code, out, _), _ = two["without the damaged"]
    warnings = " ".join(json.loads(out)["warnings"])
    assert code == 3 and "05.png" in warnings and "08.png" in warnings  # of process 1, of process 0
    assert "small.png" in two["without the small"][0][1]


@pytest.mark.parametrize(("name", "text"), [("damaged", ".png: pixels cannot be read"), ("no network", "--metrics")])
def test_what_one_process_comes_upon_ends_all(name, text, one, two):
    for code, out, err in (*two[name], one(name)):
        assert code == 2 and out == "" and err.count("error:") == 1 and text in err


def test_the_main_process_s_failure_to_write_is_the_others_too(two):
    (code, _, err), (other, out, _) = two["unwritable"]
    assert code == other != 0 and "report.html" in err and out == ""


def test_files_are_those_of_one_process(two, one, commands):
    command = commands["all metrics"]
    stats, report = (command[command.index(option) + 1] for option in ("--save-stats", "--report"))
    with np.load(stats) as file:
        before = {name: file[name] for name in file.files}
    assert report.stat().st_size > 1000
    one("all metrics")
    with np.load(stats) as file:
        assert set(file.files) == set(before)
        for name, value in before.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(value, file[name], rtol=1e-6, atol=1e-9)


def test_the_main_process_counts_every_crop_and_replicate_once(two):
    (_, _, main), (_, _, other) = two["all metrics"]
    counts = [tuple(map(int, found)) for found in re.findall(r" (\d+)/(\d+) ", main)]
    assert counts.count((150, 150)) >= 2 and (4, 4) in counts and all(done <= total for done, total in counts)
    assert other == ""
