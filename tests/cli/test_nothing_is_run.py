"""Nothing that a command loads can run code: a pickle in any file of any directory that is ever loaded stays inert."""

import io
import json
import os
import pickle
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from helpers import ldm_form
from helpers.checkpoints import save_checkpoint
from helpers.embeddings import MeanColour, embed
from helpers.models import save_encoder, save_model
from helpers.training import LineTask, config, forget_accelerate

from largegen.conditioning.suitable import encoder_of
from largegen.embeddings.convert.convert import import_embeddings
from largegen.embeddings.convert.facts import ImportOptions
from largegen.embeddings.embed import EmbedOptions, embed_slide
from largegen.embeddings.file import read_grid
from largegen.errors import InputError, ModelError
from largegen.metrics.features.networks import load_network
from largegen.metrics.sets.statistics import load_statistics
from largegen.models.autoencoder import load_autoencoder
from largegen.models.convert.published import read_published
from largegen.models.describe import describe_directory
from largegen.models.encoder import load_encoder
from largegen.models.known_embeddings import KnownEmbeddings
from largegen.models.model import load_model
from largegen.models.safe_load import read_checkpoint
from largegen.models.start_from import start_from
from largegen.sampling.resume import load_progress
from largegen.slides.slide import open_slide
from largegen.training.run import train

# Names that libraries look for beside those that are there.
CONVENTIONAL = (
    *("pytorch_model.bin", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.ckpt", "model.pkl", "model.pt"),
    *("optimizer.bin", "scheduler.bin", "sampler.bin", "scaler.pt", "random_states_0.pkl", "custom_checkpoint_0.pkl"),
    *("custom_checkpoint_1.pkl", "embeddings.pkl", "features.npy", "pytorch_model.bin.index.json", "sitecustomize.py"),
)


class Bomb:
    """What makes the folder `mark` when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def payloads(mark: Path) -> dict[str, bytes]:
    bomb = pickle.dumps({"state_dict": Bomb(mark)}, 2)
    zipped, legacy, array, arrays = (io.BytesIO() for _ in range(4))
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in (("data.pkl", bomb), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", content)
    torch.save({"state_dict": Bomb(mark)}, legacy, _use_new_zipfile_serialization=False)
    np.save(array, np.array([Bomb(mark)], object), allow_pickle=True)
    np.savez(arrays, features=np.array([Bomb(mark)], object), mean=np.array([Bomb(mark)], object))
    code = f"import os; os.mkdir({str(mark)!r})".encode()
    return {
        **{"pickle": bomb, "zip": zipped.getvalue(), "legacy": legacy.getvalue(), "code": code},
        **{"npy": array.getvalue(), "npz": arrays.getvalue()},
    }


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    forget_accelerate()


@pytest.fixture
def plant(tmp_path):
    """Load copies of a directory, each with a bomb in one of its files or under a name that libraries look for."""

    def planted(directory: Path, *uses):
        files = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
        more = [path.parent / name for path in files for name in CONVENTIONAL if path.parent / name not in files]
        assert files
        for kind, content in payloads(tmp_path / "run").items():
            for places in (*([file] for file in files), more):
                copy = tmp_path / "copy"
                shutil.copytree(directory, copy)
                for place in places:
                    (copy / place).write_bytes(content)
                for use in uses:
                    with suppress(Exception):
                        use(copy)
                    assert not (tmp_path / "run").exists(), f"{kind} in {places} was run"
                shutil.rmtree(copy)

    return planted


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return save_model(folder / "model", save_encoder(folder / "encoder"))


def test_the_bombs_go_off_where_they_are_let(tmp_path):
    for content in payloads(tmp_path / "run").values():
        reader = np.load if content.startswith((b"\x93NUMPY", b"PK")) else None
        with suppress(Exception):
            if content.startswith(b"import"):
                exec(content)
            elif reader and b"archive/" not in content:
                found = reader(io.BytesIO(content), allow_pickle=True)
                found = [found[name] for name in found] if hasattr(found, "files") else found
            else:
                torch.load(io.BytesIO(content), weights_only=False)
                pickle.loads(content)
        if not (tmp_path / "run").exists():
            with suppress(Exception):
                pickle.loads(content)
        assert (tmp_path / "run").exists()
        (tmp_path / "run").rmdir()


def test_of_a_training_run(tmp_path, plant):
    train(LineTask(), tmp_path / "out", config(steps=2))

    def resume(run):
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        train(LineTask(), run, config(steps=3, resume="latest", validate_every=100))

    shutil.rmtree(tmp_path / "out" / "tensorboard", ignore_errors=True)
    shutil.rmtree(tmp_path / "out" / "samples")
    plant(tmp_path / "out", resume)


def test_of_a_model(tmp_path, plant, model_dir):
    whole = load_model(model_dir, "cpu", "fp32")

    def load(directory):
        model = load_model(directory, "cpu", "fp32")
        load_encoder(encoder_of(model), device="cpu")

    plant(model_dir, load, load_autoencoder, describe_directory, lambda d: start_from(whole, d))


def test_of_an_encoder(tmp_path, plant):
    encoder = save_encoder(tmp_path / "encoder")
    plant(encoder, lambda d: load_encoder(f"local-dir:{d}", device="cpu"))


@pytest.mark.parametrize("more", [{"checkpoint_path": "evil.pth"}, {"pretrained": True}, {"pretrained_cfg": {}}])
def test_an_encoder_s_configuration_has_nothing_loaded(tmp_path, more):
    encoder = save_encoder(tmp_path / "encoder")
    file = encoder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"timm_kwargs": more}))
    with pytest.raises(ModelError, match="has timm load another file"):
        load_encoder(f"local-dir:{encoder}", device="cpu")


def test_of_a_diffusers_directory(tmp_path, plant, model_dir):
    folder = tmp_path / "pipeline"
    folder.mkdir()
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(model_dir / part, folder / part)
    plant(folder, read_published)


def test_of_a_published_checkpoint(tmp_path, plant):
    form = {
        **{"embed_dim": 3, "n_embed": 8},
        "ddconfig": {
            **{"double_z": False, "z_channels": 3, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32},
            **{"ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
        },
    }
    weights = {name: torch.zeros(shape) for name, shape in ldm_form.autoencoder(**form)}
    folder = save_checkpoint(tmp_path / "ldm", weights, {"model": {"params": {"first_stage_config": {"params": form}}}})
    assert read_published(folder)[0].vae is not None
    plant(folder, read_published, lambda d: read_checkpoint(d / "model.ckpt"))


def test_of_embeddings(tmp_path, plant, slide_path):
    with open_slide(slide_path) as slide:
        file = embed(slide, tmp_path / "embeddings")

        def go_on(folder):
            (folder / file.name).unlink(missing_ok=True)
            embed_slide(
                slide, MeanColour(), folder, EmbedOptions(tile_px=100, batch_size=8), downsample=1.0, progress=False
            )

        with suppress(KeyboardInterrupt):
            embed(slide, tmp_path / "partial", MeanColour(fail_after=2))
        plant(file.parent, lambda d: read_grid(d / file.name))
        assert any(file.is_dir() for file in (tmp_path / "partial").iterdir())
        plant(tmp_path / "partial", go_on)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".pkl", ".pickle"])
def test_of_embeddings_of_others(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    for kind, content in payloads(tmp_path / "run").items():
        file = tmp_path / "in" / f"{kind}{suffix}"
        file.write_bytes(content)
        with suppress(InputError):
            import_embeddings(file, tmp_path / "out", ImportOptions(encoder="phikon", tile_px=256))
        assert not (tmp_path / "run").exists()


def test_of_single_files(tmp_path, model_dir):
    encoder = f"local-dir:{model_dir / 'encoder'}"
    uses = {
        ".npz": (load_statistics,),
        ".h5": (read_grid,),
        ".partial": (lambda path: load_progress(path, ""),),
        ".safetensors": (read_checkpoint, KnownEmbeddings.load, lambda path: load_encoder(encoder, path, "cpu")),
        ".pt": (lambda path: load_network("inception", path, "cpu"), read_checkpoint),
        ".pth": (lambda path: load_network(f"encoder:{encoder}", path, "cpu"),),
    }
    for suffix, loads in uses.items():
        for content in payloads(tmp_path / "run").values():
            file = tmp_path / f"file{suffix}"
            file.write_bytes(content)
            for load in loads:
                with suppress(Exception):
                    load(file)
                assert not (tmp_path / "run").exists()


def test_an_hdf5_file_holds_no_objects(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file, pytest.raises(TypeError):
        file["features"] = np.array([Bomb(tmp_path / "run")], object)


def test_the_program_of_a_torchscript_file_only_computes(tmp_path):
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "written")
            return x.flatten(1)

    class Hides(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_file("written", True, 10)

    class Outer(torch.nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = layers

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    for layers in (Writes(), Hides()):
        torch.jit.script(Outer(layers)).save(str(tmp_path / "evil.pt"))
        with pytest.raises(ModelError, match=r"its program uses (save|from_file), which no network"):
            load_network("inception", tmp_path / "evil.pt", "cpu")
    assert not Path("written").exists()
