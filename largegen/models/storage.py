"""One network on disk: a diffusers configuration and safetensors, saved and loaded strictly."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from largegen.errors import ModelError
from largegen.models.safe_load import check_state, read_checkpoint, weights_of
from largegen.runtime.files import not_damaged

log = logging.getLogger(__name__)

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
OWN_KEYS = {"latents_scale"}  # of config.json, that diffusers' classes do not know
OLDER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def save_network(network: nn.Module, directory: Path, dtype: torch.dtype | None) -> None:
    """Save one diffusers module as config.json and safetensors, cast to `dtype` if given."""
    network.save_config(directory)
    save_weights(network, directory / WEIGHTS, dtype)


def save_weights(network: nn.Module, path: Path, dtype: torch.dtype | None) -> None:
    """Write the network's weights as safetensors, cast to `dtype` if given."""
    weights = {
        name: (value.to(dtype) if dtype and value.is_floating_point() else value).cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    save_tensors(weights, path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write safetensors, as readable as any new file here; the library makes its files readable to the owner alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, {"format": "pt"})
    path.chmod(mode)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        OSError: The system refuses; safetensors itself would say of any reason that there is no such file.
        SafetensorError: It is damaged.
    """
    with path.open("rb"):
        return load_file(path)


class SavedTensors:
    """A dataclass whose fields are tensors, and its safetensors file."""

    def save(self, path: Path) -> None:
        """Write the fields."""
        save_tensors({name: value.contiguous() for name, value in vars(self).items()}, path)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read what `save` wrote; None where there is no file. Raises ModelError for a damaged one."""
        if not path.exists():
            return None
        try:
            return cls(**load_tensors(path))
        except (OSError, SafetensorError, TypeError) as error:
            not_damaged(error, path)
            raise ModelError(f"{path}: damaged: {error}") from error


def load_network(directory: Path, classes: Mapping[str, Any], class_name: str | None = None) -> nn.Module:
    """Load one diffusers module strictly, as fp32, from config.json and safetensors.

    Args:
        directory: Where it is.
        classes: Those that it may be of, by their names.
        class_name: Its class; None: as its configuration says.

    Raises:
        ModelError: For a missing or damaged file, another class, and weights that do not match.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        name = class_name or config.get("_class_name")
        if name not in classes:
            raise ModelError(f"{directory}: its class is {name}, none of {', '.join(classes)}")
        own = {key: config.pop(key) for key in OWN_KEYS & config.keys()}  # diffusers would warn of them
        with init_empty_weights(include_buffers=False):
            network: nn.Module = classes[name].from_config(config)
        network.register_to_config(**own)
    except Exception as error:  # a damaged configuration fails in a dozen ways within the network's constructor
        not_damaged(error, directory / "config.json")
        raise ModelError(f"{directory / 'config.json'}: missing or damaged: {error}") from error
    files = weight_files(directory)
    state: dict[str, torch.Tensor] = {}
    for file in files:
        state |= {name: value.float() for name, value in weights_of(read_checkpoint(file), file).items()}
    state = _today_names(state, network.state_dict())
    check_state(network, state, files[0] if len(files) == 1 else directory)
    network.load_state_dict(state, assign=True)
    return network


def weight_files(directory: Path) -> list[Path]:
    """Find the files of a network's weights as diffusers names them: whole or in shards, safetensors or older, fp16.

    Raises:
        ModelError: Where there are none, or it is not clear which are meant.
    """
    found = [path for path in sorted(directory.glob(f"{STEM}*")) if path.suffix in (".safetensors", ".bin")]
    indices = sorted(directory.glob(f"{STEM}*.index*.json"))
    whole = [path for path in found if not re.search(r"-\d{5}-of-\d{5}", path.name)]
    for plain in (directory / WEIGHTS, (directory / WEIGHTS).with_suffix(".bin")):
        if plain in whole:
            return [plain]
        if (index := plain.with_name(f"{plain.name}.index.json")) in indices:
            return _shards(index)
    variants = [path for path in (*whole, *indices) if "non_ema" not in path.name] or [*whole, *indices]
    best = [path for path in variants if "safetensors" in path.name] or variants
    if len(best) > 1:
        raise ModelError(f"{directory}: holds {', '.join(path.name for path in best)}; leave one of them there")
    if not best:
        raise ModelError(f"{directory / WEIGHTS}: no such file")
    log.info("%s: its weights are read from %s", directory, best[0].name)
    return _shards(best[0]) if best[0].suffix == ".json" else best


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / Path(name).name for name in sorted(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        not_damaged(error, index)
        raise ModelError(f"{index}: not an index of shards: {error!r}") from error


def _today_names(state: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of attention that diffusers before 0.18 called query, key, value and proj_attn."""
    renamed = {}
    for name, value in state.items():
        today = ".".join(OLDER_NAMES.get(part, part) for part in name.split("."))
        if name not in expected and today in expected:
            name = today
            if value.ndim == 4 and value.shape[2:] == (1, 1):
                value = value[:, :, 0, 0]  # still older ones are convolutions
        renamed[name] = value
    return renamed
