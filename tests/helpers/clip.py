"""A vision-language model of open_clip in miniature, with random weights, as its hub repositories hold them."""

import json
from pathlib import Path

import torch

FORM = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def save_clip(directory: Path, seed: int = 0) -> str:
    """Write its directory, and return the name that open_clip knows it by."""
    import open_clip
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    torch.manual_seed(seed)
    network = open_clip.CLIP(**FORM)
    save_file(network.state_dict(), directory / "open_clip_model.safetensors")
    config = {"model_cfg": FORM, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{directory}"
