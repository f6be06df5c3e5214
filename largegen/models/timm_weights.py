"""Weight files of vision networks: read safely, given timm's names, loaded to the last key and shape."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largegen.errors import ModelError
from largegen.models.safe_load import check_state

if TYPE_CHECKING:
    import torch

State = dict[str, Any]  # tensors by name


def load_weights(net: "torch.nn.Module", path: Path, dino_positions: bool = False) -> None:
    """Load a .safetensors, .pth or .bin file into a network, strictly and without running code from it.

    Transformers' and DINOv2's names of a vision transformer's weights are turned into timm's, and so are the first
    Swin's.

    Args:
        net: The network.
        path: The file.
        dino_positions: Positions of another grid are resampled in DINO's way, not timm's.

    Raises:
        ModelError: Naming the first weight that is missing, unexpected or of the wrong shape.
    """
    from largegen.models.safe_load import read_checkpoint, weights_of

    state = _of_the_backbone(weights_of(read_checkpoint(path), path))
    if dino_positions:
        state = _dino_positions(state, net)
    try:
        state = _to_timm_names(state, net)
    except Exception as error:  # timm's filters trust the names and shapes that they look for
        raise ModelError(f"{path}: not the weights of this network: {' '.join(str(error).split())}") from error
    check_state(net, state, path)
    net.load_state_dict(state)


def _of_the_backbone(state: State) -> State:
    """Drop what a training puts around a network's names.

    That is a shared prefix, and beside a `backbone.` the projection head of DINO and iBOT.
    """
    from largegen.models.safe_load import without_prefix

    if any(name.startswith("backbone.") for name in state):
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    return without_prefix(without_prefix(state, "backbone."), "encoder.")


def _dino_positions(state: State, net: "torch.nn.Module") -> State:
    """Bring the positions of the patches to the grid of `net` as DINO does it: (1, 1 + n, D) => (1, 1 + N, D) float32.

    facebookresearch/dino, vision_transformer.py: bicubic, no antialiasing, and a tenth of a patch added to the new
    side, which moves the points that are sampled.
    """
    import torch

    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return state
    side, count = net.patch_embed.grid_size[0], positions.shape[1] - 1
    old_side = math.isqrt(max(0, count))
    if old_side in (0, side) or old_side**2 != count:
        return state
    positions = positions.to(torch.float32)
    grid = positions[:, 1:].unflatten(1, (old_side, old_side)).permute(0, 3, 1, 2)  # BNC => BCHW
    scale = (side + 0.1) / old_side
    grid = torch.nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return state | {"pos_embed": torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)}


def _to_timm_names(state: State, net: "torch.nn.Module") -> State:
    """Give the weights timm's names, and drop a classifier that `net` does not have."""
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in state):
        state = _from_transformers(state)
    elif isinstance(net, VisionTransformer):
        state = checkpoint_filter_fn(state, net)
    elif isinstance(net, SwinTransformer):
        state = _from_first_swin(state)
    head = f"{net.pretrained_cfg.get('classifier') or 'head'}."
    own = net.state_dict().keys()
    return {name: value for name, value in state.items() if name in own or not name.startswith(head)}


def _from_first_swin(state: State) -> State:
    """Turn the names of Microsoft's Swin and of timm before 0.9 into timm's.

    They merge patches at the end of a stage, timm does at the start of the next. They also store two tables that
    follow from the shapes.
    """
    tables = ("attn.relative_position_index", "attn_mask")
    state = {name: value for name, value in state.items() if not name.endswith(tables)}
    if not any(name.startswith("layers.0.downsample.") for name in state):
        return state
    merging = re.compile(r"^layers\.(\d+)\.downsample\.")
    return {merging.sub(lambda m: f"layers.{int(m[1]) + 1}.downsample.", name): v for name, v in state.items()}


def _from_transformers(state: State) -> State:
    """Give the weights of a transformers ViTModel timm's names; query, key and value become one matrix."""
    import torch

    state = {name.removeprefix("vit."): value for name, value in state.items()}
    outer = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "layernorm": "norm",
    }
    inner = {
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
    }
    renamed = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if name in outer:
            renamed[outer[name]] = value
        elif stem in outer:
            renamed[f"{outer[stem]}.{kind}"] = value
        elif name.startswith("encoder.layer."):
            _, _, index, part = stem.split(".", 3)
            if part == "attention.attention.query":
                names = [name.replace(".query.", f".{which}.") for which in ("query", "key", "value")]
                if all(n in state for n in names):
                    renamed[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat([state[n] for n in names])
            elif part not in ("attention.attention.key", "attention.attention.value"):
                renamed[f"blocks.{index}.{inner.get(part, part)}.{kind}"] = value
        elif not name.startswith("pooler.") and name != "embeddings.mask_token":  # unused in embedding
            renamed[name] = value
    return renamed
