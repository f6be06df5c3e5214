"""One network on disk: a diffusers configuration and safetensors, saved and loaded strictly."""

import json
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

WEIGHTS = "diffusion_pytorch_model.safetensors"


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
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
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
        with init_empty_weights(include_buffers=False):
            network: nn.Module = classes[name].from_config(config)
    except ModelError:
        raise
    except Exception as error:  # a damaged configuration fails in a dozen ways within the network's constructor
        raise ModelError(f"{directory / 'config.json'}: missing or damaged: {error}") from error
    weights = directory / WEIGHTS
    older = weights.with_suffix(".bin")
    if not weights.exists() and older.exists():
        weights = older
    state = {name: value.float() for name, value in weights_of(read_checkpoint(weights), weights).items()}
    check_state(network, state, weights)
    network.load_state_dict(state, assign=True)
    return network
