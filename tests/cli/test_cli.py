"""The command line: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from helpers.commands import assert_one_line

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile


def test_python_m_largegen_gives_the_exit_code():
    done = subprocess.run([sys.executable, "-m", "largegen", "info", "absent"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert_one_line(done.stderr, "absent")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["embed"], "SLIDE"),
        (["embed", "a.svs"], "--out"),
        (["embed", "a.svs", "--out", "o", "--batch-size", "many"], "--batch-size"),
        (["embed", "a.svs", "--out", "o", "--batch-size", "0"], "--batch-size"),
        (["embed", "a.svs", "--out", "o", "--nonsense"], "--nonsense"),
        (["embed", str(ROOT / "examples/reference.tif"), "--out", "o", "--mag", "20", "--mpp", "0.5"], "--mpp"),
        (["embed", "a.svs", "--out", "o"], "a.svs"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments, word, capfd):
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert_one_line(err, word)


def test_config_gives_values_and_flags_win(embed, slide_path, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("tile-px = 128\noverlap = 32\n[embed]\nno_tissue_filter = true\n[encoders]\njson = true\n")
    assert embed(slide_path, "--config", config, "--overlap", 0)[0] == 0
    settings = EmbeddingFile(tmp_path / "out" / "slide.h5").settings
    assert (settings.tile_px, settings.overlap_px, settings.tissue_filter) == (128, 0, "none")


def test_config_gives_required_options_too(encoder, slide_path, tmp_path, capfd):
    values = {"encoder": encoder, "out": str(tmp_path / "out"), "preview": True, "mpp": 1}
    (tmp_path / "run.toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    assert run(["embed", str(slide_path), "--config", str(tmp_path / "run.toml")]) == 0
    assert (tmp_path / "out" / "slide.h5").is_file() and (tmp_path / "out" / "slide.png").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tile-size = 128", ["no option 'tile-size'"]),
        ("[embedd]\ntile-px = 128", ["[embedd] is not a command"]),
        ("[embed]\nx = 1", ["no option 'x'"]),
        ("slides = ['a.svs']", ["no option 'slides'"]),
        ("tile-px = ", ["not a TOML file"]),
        ("tile-px = 'wide'", ["--tile-px"]),
        (None, ["No such file"]),
    ],
)
def test_a_bad_config_is_one_line(embed, slide_path, tmp_path, text, words):
    if text is not None:
        (tmp_path / "run.toml").write_text(text)
    code, _, err = embed(slide_path, "--config", tmp_path / "run.toml")
    assert code == 2
    assert_one_line(err, *words)


def test_quiet_says_nothing(embed, slide_path):
    embed(slide_path)
    _, _, err = embed(slide_path, "-q")
    assert err == ""


def test_an_interrupt_is_130_and_says_how_to_go_on(embed, slide_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("largegen.embeddings.embed.embed_slide", interrupt)
    code, _, err = embed(slide_path)
    assert code == 130 and "resumes" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("two\nlines"), ["unexpected RuntimeError: two lines", "LARGEGEN_DEBUG"]),
        (MemoryError(), ["--batch-size"]),
        (torch.OutOfMemoryError("CUDA"), ["--batch-size"]),
        (OSError(5, "Input/output error"), ["Input/output error"]),
    ],
)
def test_a_surprise_is_one_line_too(embed, slide_path, monkeypatch, error, words):
    def surprise(*_, **__):
        raise error

    monkeypatch.setattr("largegen.embeddings.embed.embed_slide", surprise)
    code, _, err = embed(slide_path)
    assert code == 1
    assert_one_line(err, *words)
    monkeypatch.setenv("LARGEGEN_DEBUG", "1")
    assert "Traceback" in embed(slide_path)[2]


def test_a_closed_pipe_is_no_traceback(slide_path):
    program = f"from largegen.cli import main; main(['info', {str(slide_path)!r}])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert "Traceback" not in done.stderr
