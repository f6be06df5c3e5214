"""What Windows lacks is not needed: every module imports without it, and the main job runs to its end."""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT
from helpers.models import save_encoder, save_model

FILES = sorted((ROOT / "largegen").rglob("*.py"))
TEXT_METHODS = {"read_text", "write_text"}

# torch and others ask for the system's name, which stays Linux, so they come before what the names stand for goes.
WITHOUT = """
import os, pkgutil, sys, warnings
from importlib import import_module

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # an import fails
import accelerate, diffusers, timm, torch

for name in ("register_at_fork", "fork", "kill", "getuid", "geteuid", "fchmod", "getpgid"):
    if hasattr(os, name):
        delattr(os, name)
warnings.filterwarnings("error", category=EncodingWarning, module=r"largegen\\b")
"""
IMPORT_ALL = """
import largegen

names = [module.name for module in pkgutil.walk_packages(largegen.__path__, "largegen.")]
for name in names:
    if name != "largegen.__main__":
        import_module(name)
print(len(names))
"""
# Windows and macOS start the workers of training anew: what these get must be fit for sending.
RUN = """
import json
from largegen.cli import run

torch.multiprocessing.set_start_method("spawn")
for command in json.loads(sys.argv[1]):
    if code := run(command):
        sys.exit(code)
"""


def python(code: str, *arguments) -> str:
    """Run code in a process that lacks what Windows lacks; what it prints."""
    warned = ["-X", "warn_default_encoding", "-W", "ignore::EncodingWarning"]  # but for this package
    command = [sys.executable, *warned, "-c", WITHOUT + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return save_model(folder / "model", save_encoder(folder / "encoder"))


def test_every_module_imports_and_the_main_job_runs(model, slide_path, tmp_path):
    """Embeddings of a slide, an image from them, an image from the slide itself, and a short training."""
    embed = ["embed", slide_path, "--encoder", f"local-dir:{model.parent / 'encoder'}", "--tile-px", 64]
    generate = ["generate", "--model", model, "--size", 128, "--steps", 2, "--precision", "fp32"]
    train = ["train", tmp_path / "slide.h5", "--preset", "tiny", "--vae", model / "vae", "--turns", 1, "--workers", 1]
    loop = ["--steps", 2, "--batch-size", 2, "--validation", 0.2, "--mixed-precision", "no"]
    commands = [
        [*embed, "--out", tmp_path],
        [*generate, "--embeddings", tmp_path / "slide.h5", "--out", tmp_path / "a.tif"],
        [*generate, "--ref", slide_path, "--cache", tmp_path / "cache", "--out", tmp_path / "b.tif"],
        [*train, *loop, "--cache", tmp_path / "cache", "--out", tmp_path / "run"],
    ]
    commands = [[*map(str, command), "--device", "cpu"] for command in commands]
    modules, *_ = python(IMPORT_ALL + RUN, json.dumps(commands)).splitlines()
    assert int(modules) == len(FILES) - 1  # all but the face itself
    assert (tmp_path / "a.tif").exists() and (tmp_path / "b.tif").exists() and (tmp_path / "run" / "model").is_dir()
    left = {path.name for path in tmp_path.rglob("*") if path.name.startswith(".") or path.suffix == ".lock"}
    assert not left


def test_a_name_that_the_output_s_encoding_lacks(slide_path, tmp_path):
    slide = shutil.copy(slide_path, tmp_path / "患者.tif")
    command = [sys.executable, "-m", "largegen", "info", str(slide)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "患者".encode("ascii", "backslashreplace") in done.stdout


def text_calls_without_encoding(path) -> list[int]:
    """Lines of calls that read or write text in whatever encoding the system prefers."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr in TEXT_METHODS and not any(key.arg == "encoding" for key in node.keywords):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_utf_8(path):
    assert not text_calls_without_encoding(path)
