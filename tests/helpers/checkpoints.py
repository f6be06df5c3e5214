"""Published checkpoints in miniature."""

import torch
import yaml


def save_checkpoint(folder, weights, config=None):
    """Lay a checkpoint out as LDM's model zoo does."""
    folder.mkdir()
    torch.save({"state_dict": weights, "global_step": 3}, folder / "model.ckpt")
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def with_params(config, **changes):
    """A config with other `model.params`."""
    return {"model": {"params": config["model"]["params"] | changes}}


def with_unet(config, **changes):
    """A config with other parameters of the denoiser."""
    unet = config["model"]["params"]["unet_config"]
    return with_params(config, unet_config=unet | {"params": unet["params"] | changes})


FOLDERS = ("zoomldm", "large-image-patch", "large-image-region")
