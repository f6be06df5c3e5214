"""A tiny encoder, and `largegen embed` with it."""

import pytest
from helpers.models import save_encoder

from largegen.cli import run


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> str:
    """A tiny encoder directory, as --encoder takes it."""
    return f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'tiny')}"


@pytest.fixture
def embed(encoder, tmp_path, capfd):
    """Run `largegen embed` into tmp_path/out; gives exit code, stdout, stderr (of C libraries too)."""

    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        common = ["--encoder", encoder, "--out", str(tmp_path / "out"), "--device", "cpu"]
        code = run(["embed", *map(str, arguments), *common])
        return code, *capfd.readouterr()

    return call
