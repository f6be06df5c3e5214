"""ZoomLDM's conditioning diffusion models: from the checkpoints that its training script writes.

Such a file holds `model`, `ema`, `opt` and `args`; sizes are told by the shapes, and nothing in it is run.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from largegen.errors import InputError, ModelError
from largegen.models.dit import positions
from largegen.models.safe_load import check_state, read_checkpoint, weights_of
from largegen.models.token_prior import TokenPrior

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published widths; others have 32 numbers a head
LEVEL, POSITIONS = "y_embedder.embedding_table.weight", "pos_embed"


def read_cdm(path: Path, raw_weights: bool = False) -> tuple[TokenPrior, Path]:
    """Read a CDM.

    Args:
        path: A checkpoint (.pt), or a folder that holds one, perhaps in `checkpoints`.
        raw_weights: Take the weights as they were trained, not their average (EMA).

    Returns:
        The network, and the file.

    Raises:
        InputError: Where it is not clear which file is meant.
        ModelError: For another kind of checkpoint, or a damaged one.
    """
    file = _find(path)
    content = read_checkpoint(file)
    kept = content.get("model" if raw_weights else "ema", content)
    weights = weights_of(kept if isinstance(kept, dict) else {}, file)
    try:
        table, (width, token_dim) = weights[LEVEL], weights["x_embedder.weight"].shape
        tokens = weights[POSITIONS].shape[1]
        numbers = [int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))]
        heads = HEADS.get(width, max(1, width // 32))
        network = TokenPrior(token_dim, width, 1 + max(numbers), heads, len(table), tokens)
    except (KeyError, ValueError, IndexError, AssertionError) as error:
        raise ModelError(f"{file}: not a CDM of ZoomLDM: {type(error).__name__} {error}") from error
    _check_positions(weights[POSITIONS], network, file)
    renamed = {f"network.{name}": value for name, value in weights.items() if name not in (LEVEL, POSITIONS)}
    _fill(network, {**renamed, "level.weight": table}, file)
    return network, file


def check_cdm(cdm: TokenPrior, unet: nn.Module | None, conditioner: nn.Module | None, source: Path) -> None:
    """Check that a CDM makes the tokens of a model.

    Raises:
        InputError: Where it does not.
    """
    if unet is None or conditioner is None or "levels" not in conditioner.config:
        raise InputError(f"`cdm` {source}: goes with a denoiser and its Summarizer; give both")
    for what, found, wanted in (
        ("width of tokens", cdm.config.token_dim, unet.config.cross_attention_dim),
        ("number of magnifications", cdm.config.levels, conditioner.config.levels),
    ):
        if found != wanted:
            raise InputError(f"`cdm` {source}: its {what} is {found}, but the model's {wanted}")


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted([*path.glob("*.pt"), *path.glob("checkpoints/*.pt")])
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise InputError(f"`cdm` {path}: holds {len(files)} checkpoints ({names}); name the file")
    return files[0]


def _check_positions(found: Tensor, network: TokenPrior, file: Path) -> None:
    places = torch.arange(float(found.shape[1]))[:, None]
    if not torch.allclose(found[0].float(), positions(places, network.config.width), atol=1e-4):
        raise ModelError(f"{file}: its positions are not the published ones")


def _fill(network: TokenPrior, weights: Mapping[str, Tensor], file: Path) -> None:
    check_state(network, dict(weights), file)
    network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    network.eval().requires_grad_(False)
