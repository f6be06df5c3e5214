"""Kill a command just before each of its file operations, run it again, and compare with a run that nobody killed.

Run as a program, because what is forked must not have computed anything yet: threads do not survive a fork.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import largegen.cli

CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LINE = "line"  # in place of a command: training as all training commands do it, of a network of a few weights
TIMED = ("tensorboard", ".html", ".jobs/", "summary.csv")  # parts of names of what holds the time of its making


def snapshot(folder: Path) -> dict[str, bytes]:
    """Names and contents of all that is in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "tensorboard/" not in name:
            timed = any(part in name for part in TIMED)
            found[name] = path.read_bytes() if path.is_file() and not timed else b""
    return found


def run(arguments: list[str], folder: Path, log: Path, kill_at: int = 0, every: bool = True) -> tuple[int, int, list]:
    """Run a command in a child.

    Its exit code (-9: killed), how many file operations in `folder` it has made, and the modules that it has imported.
    """
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as pipe:
            counted = json.loads(pipe.read() or "[0, []]")
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), *counted
    seen = 0

    def hook(event, given):
        nonlocal seen
        if event not in CHANGING and not (every and event == "open" and given[2] & WRITING):
            return
        if not isinstance(given[0], str | bytes | Path) or str(folder) not in os.fsdecode(given[0]):
            return
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    command = train_a_line if arguments[0] == LINE else largegen.cli.run
    with log.open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv[1:] = arguments
    sys.addaudithook(hook)
    code = command(arguments)
    with os.fdopen(write, "w") as pipe:
        json.dump([seen, list(sys.modules)], pipe)
    os._exit(code)


def train_a_line(arguments: list[str]) -> int:
    """Train as a training command does, in the directory that the second of the arguments names."""
    from helpers.training import LineTask, config
    from largegen.training.run import check_run, train

    settings = config(steps=2, checkpoint_every=1, validate_every=2, resume="latest")
    check_run(Path(arguments[1]), settings)
    train(LineTask(), Path(arguments[1]), settings)
    return 0


def main() -> None:
    """Print, as JSON, how many operations were tried and which of them went wrong."""
    arguments, template, folder, every, step = json.loads(sys.argv[1])
    template, folder = Path(template), Path(folder)
    log = folder.with_suffix(".log")

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)

    fresh()
    code, count, modules = run(arguments, folder, log, every=every)
    for name in modules:  # the children then need not read them, which takes longer than the tiny commands
        with suppress(Exception):
            importlib.import_module(name)
    expected, wrong = snapshot(folder), []
    again = run(arguments, folder, log)[0]
    if code or again or snapshot(folder) != expected:
        wrong.append(f"whole: {code}, then {again}, {differences(snapshot(folder), expected)}")
    for number in range(1, count + 1, step):
        fresh()
        killed = run(arguments, folder, log, number, every)[0]
        left = sorted(snapshot(folder))
        again, found = run(arguments, folder, log)[0], snapshot(folder)
        if killed != -signal.SIGKILL or again or found != expected:
            wrong.append(f"{number}: {killed}, then {again}, {differences(found, expected)}; was {left}")
    print(json.dumps({"count": count, "wrong": wrong, "log": log.read_text()[-3000:] if wrong else ""}))


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    return ", ".join(
        f"{'more' if name not in expected else 'missing' if name not in found else 'other'} {name}"
        for name in sorted(found | expected)
        if found.get(name) != expected.get(name)
    )


def tried(arguments: list, template: Path, folder: Path, every: bool = True, step: int = 1) -> dict:
    """Try all kill points of a command, whose outputs go to `folder`, at first a copy of `template`."""
    given = json.dumps([[str(word) for word in arguments], str(template), str(folder), every, step])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__, given], capture_output=True, text=True, env=environment, cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
