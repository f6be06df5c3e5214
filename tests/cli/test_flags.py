"""The library names its parameters in backticks; what the command line says of them are its flags."""

import ast
import json
import logging
import re

import pytest
import typer
from helpers import ROOT

from largegen.cli import app, flags, run
from largegen.errors import InputError

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(autouse=True)
def _no_command_is_left_running():
    yield
    flags._flags.clear()


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("generate", "`guidance` -1: must be 0 or more", "--guidance -1: must be 0 or more"),
        ("generate", "give only one of `mag`, `mpp` and `gsd`", "give only one of --mag, --mpp and --gsd"),
        ("generate", "`batch_size` 0: too few", "--batch-size 0: too few"),
        ("generate", 'only with `windows="overlap"`', "only with --windows overlap"),
        ("generate", "`steps=50` or `eta=0.5`", "--steps 50 or --eta 0.5"),
        ("generate", "exists; use `overwrite`", "exists; use --overwrite"),
        ("generate", "exists; use `overwrite=True`", "exists; use --overwrite"),
        ("generate", "use `tissue_filter=False`", "use --no-tissue-filter"),
        ("generate", "use `no_tissue_filter`", "use --no-tissue-filter"),
        ("train", "`schedule` none: unknown", "--lr-schedule none: unknown"),
        ("train", "`lr_schedule` none: unknown", "--lr-schedule none: unknown"),
        ("train", "raise `held_out` or `validation`", "raise --validation or --validation"),
        ("sample", "`count` 0: too few", "--count 0: too few"),
        ("embed", "`slides`: none given", "slides: none given"),
        ("info", "`guidance` -1: too low", "guidance -1: too low"),
        ("info", "a start for `largegen train`; `latest` or `a=c`", "a start for `largegen train`; latest or a=c"),
        ("info", "no name at all", "no name at all"),
    ],
)
def test_names_in_backticks_become_the_commands_flags(command, message, said):
    flags.speak_for(COMMANDS[command])
    assert flags.in_flags(message) == said


def test_an_error_names_the_flags_of_the_command(monkeypatch, capfd):
    def refuse(*_, **__):
        raise InputError("`json` and `path`: not so")

    monkeypatch.setattr("largegen.models.encoder.encoder_names", refuse)
    assert run(["encoders"]) == 2
    assert capfd.readouterr().err == "error: --json and path: not so\n"


def test_a_warning_names_the_flags_of_the_command(monkeypatch, capfd):
    def warn():
        logging.getLogger("largegen.models").warning("%s is not for `json`", "this")
        return []

    monkeypatch.setattr("largegen.models.encoder.encoder_names", warn)
    assert run(["encoders"]) == 0
    assert capfd.readouterr().err == "warning: this is not for --json\n"


def test_the_error_of_one_input_of_several_names_flags_in_json(monkeypatch, capfd, slide_path, make_slide, tmp_path):
    def refuse(*_, **__):
        raise InputError("lower `tissue_threshold`")

    monkeypatch.setattr("largegen.embeddings.embed.embed_slide", refuse)
    slides = [str(slide_path), str(make_slide(600, 600, name="other.tif"))]
    assert run(["embed", *slides, "--out", str(tmp_path), "--keep-going", "--json"]) == 3
    out, err = capfd.readouterr()
    assert [result["error"] for result in json.loads(out)["slides"]] == ["lower --tissue-threshold"] * 2
    assert err.count("lower --tissue-threshold\n") == 4 and "`" not in err  # when it fails, and at the end


def test_the_library_names_no_flags():
    """Its errors and warnings are for users of Python too; a whole command in backticks may be named."""
    for path in sorted((ROOT / "largegen").rglob("*.py")):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc:
                texts = [part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant)]
                text = re.sub("`largegen [^`]*`", "", "".join(t for t in texts if isinstance(t, str)))
                assert not re.search(r"(^|[\s,;:(])--[a-z]", text), f"{path}: {text}"
