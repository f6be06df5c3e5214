"""`largegen view` from its command line, and runs that are watched."""

import json
import time
import urllib.error
import urllib.request

import pytest
from helpers.commands import assert_one_line
from helpers.denoisers import Killed, kill_at
from helpers.denoisers import run as sample
from helpers.views import made_after

from largegen.cli import run
from largegen.cli.watch import watched
from largegen.errors import InputError

pytest.importorskip("uvicorn", reason="the extra `view` is not installed")


def test_an_export_is_reported(slide_path, tmp_path, capfd):
    made = made_after(slide_path, tmp_path / "made.tif", size=(256, 256))
    out = tmp_path / "viewer"
    assert run(["view", str(made), "--export", str(out), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"out": str(out), "tiles": 1}
    assert (out / "index.html").exists()
    assert run(["view", str(made), "--export", str(out)]) == 1
    assert_one_line(capfd.readouterr().err, "exists already", "--overwrite", "--export")


def test_a_result_is_never_written_over(slide_path, tmp_path, capfd):
    made = made_after(slide_path, tmp_path / "made.tif", size=(256, 256))
    before = made.read_bytes()
    assert run(["view", str(made), "--export", str(made), "--overwrite"]) == 2
    assert_one_line(capfd.readouterr().err, "input", "--export")
    assert made.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.tif"], ["missing.tif"]),
        (["a.tif", "b.tif", "--watch"], ["--watch", "one run"]),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments, words, capfd):
    assert run(["view", *arguments, "--no-browser"]) == 2
    assert_one_line(capfd.readouterr().err, *words)


def address_in(capfd) -> str:
    """The address that the viewer has printed on stderr."""
    said, until = "", time.monotonic() + 60
    while "http" not in said and time.monotonic() < until:
        said += capfd.readouterr().err
        time.sleep(0.05)
    return next(word for word in said.split() if word.startswith("http"))


def test_a_run_is_served_as_long_as_it_lasts(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("BROWSER", "true")  # a program that does nothing
    with pytest.raises(Killed):
        sample(kill_at(2), batch_size=100, checkpoint=tmp_path / ".out.tif.partial", save_every_s=0)
    with watched(True, tmp_path / "out.tif"):
        address = address_in(capfd)
        said = json.load(urllib.request.urlopen(f"{address}progress.json"))
        assert (said["state"], said["step"], said["steps"]) == ("sampling", 2, 5)
        assert '"follow": true' in urllib.request.urlopen(address).read().decode()
        tile = urllib.request.urlopen(f"{address}0/tiles/0/1/0_0.jpg")
        assert tile.headers["content-type"] == "image/jpeg"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)


def test_a_run_does_not_fail_with_its_viewer(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    done = []
    with watched(True, tmp_path / "out.tif"):
        done.append(1)
    assert done and "cannot be watched" in caplog.text


def test_one_of_many_jobs_is_not_watched(tmp_path, monkeypatch):
    monkeypatch.setattr("largegen.cli.watch.running_job", lambda: object())
    with pytest.raises(InputError, match="not many jobs"), watched(True, tmp_path / "out.tif"):
        pass
