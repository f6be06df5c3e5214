"""A tiny model, and `largegen generate` with it."""

import shutil
from pathlib import Path

import pytest
from helpers.models import save_encoder, save_model

from largegen.cli import run


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    path = save_model(folder / "model", save_encoder(folder / "encoder"))
    shutil.rmtree(folder / "encoder")  # the model has its own copy
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def arguments(model, slide_path, cache, tmp_path):
    """The arguments of a quick run, to which a test adds; the 1300x1000 px slide makes 20x15 tiles of 64 px."""

    def make(*more, ref=slide_path, size=128, out="a.png") -> list[str]:
        options = ["--size", size, "--model", model, "--out", tmp_path / out]
        options += ["--ref", ref, "--cache", cache] if ref else []
        return ["generate", *map(str, [*options, "--steps", 2, "--device", "cpu", "--precision", "fp32", *more])]

    return make


@pytest.fixture
def generate(arguments, capfd):
    """Run the command in this process: exit code, stdout, stderr."""

    def call(*more, **options) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(arguments(*more, **options))
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def fails(generate, tmp_path):
    """Run the command, which must fail with one line and write nothing; gives the exit code and the line."""

    def call(*more, **options) -> tuple[int, str]:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = generate("-q", *more, **options)
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        assert sorted(tmp_path.rglob("*")) == before
        return code, err

    return call
