"""A tiny encoder, and `largegen embed` with it."""

import pytest
from helpers.models import save_encoder

from largegen.cli import run


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> str:
    """A tiny encoder directory, as --encoder takes it."""
    return f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'tiny')}"


@pytest.fixture(scope="session")
def in_bands():
    """Let images be read, sampled and written in small bands, and every canvas be kept in a file."""

    def patch(monkeypatch) -> None:
        monkeypatch.setattr("largegen.sampling.stored_canvas.MAX_MEMORY_CANVAS_VALUES", 0)
        monkeypatch.setattr("largegen.sampling.walk.BAND_VALUES", 7 * 4 * 30)
        monkeypatch.setattr("largegen.sampling.memory_canvas.BAND_VALUES", 7 * 4 * 30)
        monkeypatch.setattr("largegen.sampling.original.BAND_PX", 24)
        monkeypatch.setattr("largegen.images.edit_file.BAND_PX", 24)
        monkeypatch.setattr("largegen.sampling.blend.BLEND_ROWS", 10)
        monkeypatch.setattr("largegen.images.part.BLEND_ROWS", 10)

    return patch


@pytest.fixture
def embed(encoder, tmp_path, capfd):
    """Run `largegen embed` into tmp_path/out; gives exit code, stdout, stderr (of C libraries too)."""

    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        common = ["--encoder", encoder, "--out", str(tmp_path / "out"), "--device", "cpu"]
        code = run(["embed", *map(str, arguments), *common])
        return code, *capfd.readouterr()

    return call
