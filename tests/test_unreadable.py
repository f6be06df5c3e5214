"""What the system does not let us read is not called damaged: nothing is made anew, replaced or deleted for it."""

import errno
import os
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.embeddings import random, save
from helpers.models import save_encoder, save_model
from helpers.priors import save_grid, two_kinds
from helpers.training import LineTask, config, forget_accelerate

from largegen.cli.common import one_by_one
from largegen.embeddings.convert.arrays import open_arrays
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.partial import Blocks
from largegen.errors import EmbeddingFileError, InputError, ModelError
from largegen.metrics.sets.statistics import load_statistics
from largegen.models.directory import load_scheduler, read_index
from largegen.models.safe_load import read_checkpoint
from largegen.models.storage import load_network
from largegen.runtime.files import not_damaged
from largegen.sampling.resume import load_progress
from largegen.training.run import train

pytestmark = pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")


@contextmanager
def forbidden(path):
    """Nobody may read this file, not even root: for a while we are somebody else."""
    mode, me = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    os.seteuid(me or 65534)
    try:
        yield
    finally:
        os.seteuid(me)
        path.chmod(mode)


def for_all(folder):
    """Let anybody write into a folder."""
    folder.mkdir(exist_ok=True)
    for parent in folder.parents[:4]:
        parent.chmod(0o755)
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = for_all(tmp_path_factory.mktemp("files"))
    save_grid(folder / "e.h5", two_kinds(2, 2, 0))
    save(folder / "a.npy", random(2, 2, 16))
    np.savez(folder / "a.npz", x=random(2, 2, 16))
    torch.save({"w": torch.zeros(3)}, folder / "a.pt")
    safetensors.torch.save_file({"w": torch.zeros(3)}, folder / "a.safetensors")
    save_model(folder / "model", save_encoder(folder / "encoder"))
    return folder


def arrays(path):
    with open_arrays(path):
        pass


READERS = {
    "e.h5": EmbeddingFile,
    "a.npy": arrays,
    "a.npz": load_statistics,
    "a.pt": read_checkpoint,
    "a.safetensors": lambda path: load_progress(path, ""),
    "model/model_index.json": lambda path: read_index(path.parent),
    "model/scheduler/scheduler_config.json": lambda path: load_scheduler(path.parents[1]),
    "model/vae/config.json": lambda path: load_network(path.parent, {}),
}


@pytest.mark.parametrize("name", READERS)
def test_no_permission_is_what_it_is(files, name):
    path = files / name
    with forbidden(path), pytest.raises((InputError, PermissionError), match="Permission denied") as raised:
        READERS[name](path)
    assert "damaged:" not in str(raised.value) or name.endswith("scheduler_config.json")
    assert not isinstance(raised.value, EmbeddingFileError)


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(tmp_path):
    out = for_all(tmp_path / "run")
    train(LineTask(), out, config(steps=4))
    forget_accelerate()
    with (
        forbidden(out / "checkpoint-4" / "state.safetensors"),
        pytest.raises(InputError, match="checkpoint-4: cannot be read: Permission denied"),
    ):
        train(LineTask(), out, config(steps=4, resume="latest"))
    forget_accelerate()
    assert (out / "checkpoint-4").is_dir()


def test_embeddings_that_are_done_are_not_thrown_away(tmp_path):
    settings = EmbeddingFile(save_grid(tmp_path / "e.h5", two_kinds(2, 2, 0))).settings
    blocks = Blocks(tmp_path / "a.h5", settings, 4)
    blocks.append(np.zeros((2, settings.dim), np.float32))
    blocks.flush()
    for_all(blocks.directory)
    for name in ("settings.json", "000000000.npy"):
        with forbidden(blocks.directory / name), pytest.raises(InputError, match="Permission denied"):
            Blocks(tmp_path / "a.h5", settings, 4)
    assert Blocks(tmp_path / "a.h5", settings, 4).done == 2


def test_what_says_nothing_of_a_file_is_raised_again(tmp_path):
    for error in (MemoryError(), ModelError("x: no such file")):
        with pytest.raises(type(error)):
            not_damaged(error, tmp_path)
    with pytest.raises(InputError, match="cannot be read: Input/output error"):
        not_damaged(OSError(errno.EIO, "x"), tmp_path)
    not_damaged(OSError("truncated file"), tmp_path)
    not_damaged(FileNotFoundError(errno.ENOENT, "x"), tmp_path)
    not_damaged(ValueError(), tmp_path)


def test_others_of_many_go_on(tmp_path):
    paths = [for_all(tmp_path) / name for name in "ab"]
    for path in paths:
        path.write_text("content")
    with forbidden(paths[0]):
        found = one_by_one(paths, lambda path: {"read": path.read_text()}, keep_going=True, what="file")
        with pytest.raises(PermissionError):
            one_by_one(paths, lambda path: {"read": path.read_text()}, keep_going=False, what="file")
    assert found == [{"file": str(paths[0]), "error": f"{paths[0]}: Permission denied"}, {"read": "content"}]
