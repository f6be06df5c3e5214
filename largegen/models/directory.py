"""A model directory, in diffusers' layout: where models are, and what they say of themselves."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.errors import ModelError, first_line
from largegen.models.info import ModelInfo
from largegen.runtime.files import not_damaged, write_json
from largegen.version import __version__

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler
    from torch import nn

_PACKAGE = Path(__file__).parents[1]
BUNDLED = {"tissue": _PACKAGE / "starter", "aerial": _PACKAGE / "aerial", "starter": _PACKAGE / "starter"}
INDEX = "model_index.json"
PRIOR = "prior"  # folder of the prior that a model has of its own
CLASS_NAME = "LargegenModel"
JOB = "_job"  # key of the digest of a conversion


def is_model(path: Path) -> bool:
    """Tell whether a model of this package is there, not one of diffusers, whose directories look the same."""
    return (path / INDEX).is_file() and CLASS_NAME in (path / INDEX).read_text(encoding="utf-8")


def is_prior(path: Path) -> bool:
    """Tell whether a directory holds a grid prior."""
    config = path / "config.json"
    return config.is_file() and '"_class_name": "GridPrior"' in config.read_text(encoding="utf-8", errors="replace")


def find_model(name_or_dir: str | Path) -> Path:
    """Find the directory of a model, by a bundled model's name or its path.

    Raises:
        ModelError: Where there is no model.
    """
    directory = BUNDLED.get(str(name_or_dir), Path(name_or_dir))
    if (directory / "model" / INDEX).is_file():
        directory = directory / "model"  # a run directory of `train`
    if not (directory / INDEX).is_file():
        names = ", ".join(BUNDLED)
        raise ModelError(f"{name_or_dir}: no model there (no {INDEX}); give a model directory or one of: {names}")
    return directory


@dataclass(frozen=True)
class ModelIndex:
    """What a model directory says of itself in model_index.json."""

    parts: Mapping[str, str]  # class of each network and of what else is named there, by its folder
    info: ModelInfo


def read_index(directory: Path) -> ModelIndex:
    """Read a model directory's model_index.json.

    Raises:
        ModelError: Where it is missing or damaged.
    """
    try:
        index = dict(json.loads((directory / INDEX).read_text(encoding="utf-8")))
        info = ModelInfo.from_dict(index.pop("info"))
        return ModelIndex({name: value for name, value in index.items() if not name.startswith("_")}, info)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        not_damaged(error, directory / INDEX)
        raise ModelError(f"{directory / INDEX}: damaged: {error}") from error


def write_model(
    directory: Path,
    parts: "dict[str, nn.Module]",
    scheduler: "DDPMScheduler",
    info: ModelInfo,
    dtype: "torch.dtype | None" = None,
    job: str = "",
) -> Iterator[str]:
    """Write networks, schedule and index into `directory`.

    Without a conditioner it is no model to sample with, but a start for training.

    Args:
        directory: Where to.
        parts: The networks by the names of their folders: vae, unet, conditioner.
        scheduler: The training noise schedule.
        info: What travels with the weights.
        dtype: Of the weights; None: as they are.
        job: Tells apart all that was converted, so that the same is not done again; "" for trained models.

    Yields:
        The name of each network when it is written.
    """
    from largegen.models.storage import save_network

    for name, network in parts.items():
        save_network(network, directory / name, dtype)
        yield name
    scheduler.save_pretrained(directory / "scheduler")
    classes = {name: type(network).__name__ for name, network in parts.items()}
    write_json(
        directory / INDEX,
        {
            "_class_name": CLASS_NAME,
            "_largegen_version": __version__,
            **({JOB: job} if job else {}),
            **classes,
            "info": info.as_dict(),
        },
    )


def load_scheduler(directory: Path) -> "DDPMScheduler":
    """Load the noise schedule of a model directory. Raises ModelError where it is missing or damaged."""
    from diffusers import DDPMScheduler

    try:
        return DDPMScheduler.from_pretrained(directory / "scheduler", local_files_only=True)
    except (OSError, ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{directory / 'scheduler'}: missing or damaged: {first_line(error)}") from error
