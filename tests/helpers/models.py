"""A tiny model with random weights, and its encoder, for tests of what is around the networks."""

import json
from pathlib import Path

import safetensors.torch
import timm
import torch

from largegen.models.autoencoder import Autoencoder
from largegen.models.denoiser import PRESETS
from largegen.models.encoder import load_encoder
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.models.model import Model, build_model, load_model
from largegen.models.student import Changes, StudentInfo, save_student, takes_guidance
from largegen.runtime.fingerprints import network_checksum
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import Sampling
from largegen.training.config import AUTOENCODER_PRESETS
from largegen.training.tasks.autoencoder import build_autoencoder

WIDTH = 16
TILE_PX = 64


def save_encoder(directory: Path, seed: int = 0, width: int = WIDTH) -> Path:
    """Write a tiny encoder directory, as `--encoder local-dir:` takes it."""
    directory.mkdir(parents=True)
    torch.manual_seed(seed)
    net = timm.create_model("test_resnet", num_classes=width)
    safetensors.torch.save_file(net.state_dict(), directory / "model.safetensors")
    config = {
        **{"format": "largegen-encoder", "architecture": "test_resnet", "width": width, "input_px": 64},
        **{"mean": [0.5] * 3, "std": [0.5] * 3, "licence": "CC-BY-4.0", "timm_kwargs": {}},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def save_model(directory: Path, encoder: Path, seed: int = 0, levels: int = 1) -> Path:
    """Write a model directory for tiles of 64 px (8 latents), whose images are noise, but not flat."""
    torch.manual_seed(seed)
    loaded = load_encoder(f"local-dir:{encoder}", device="cpu")
    vae = build_autoencoder(AUTOENCODER_PRESETS["tiny"])
    vae.trunk.decoder.conv_out.weight.data *= 8
    info = ModelInfo(
        name="tiny",
        encoder=f"local-dir:{encoder}",
        encoder_fingerprint=loaded.fingerprint,
        encoder_licence="CC-BY-4.0",
        licence="CC0-1.0",
        embedding_dim=WIDTH,
        tile_px=TILE_PX,
        trained_on=(TrainingSlide("a", mpp=0.5),) if levels > 1 else (),
    )
    conditioner = "PatchConditioner" if levels == 1 else "Summarizer"
    model = build_model(PRESETS["tiny"], conditioner, Autoencoder(vae), WIDTH, TILE_PX, info, levels)
    model.save(directory, encoder=encoder)
    return directory


def save_with_student(directory: Path, teacher: Path, **info) -> Path:
    """Write a copy of a model directory with a student of small random changes; of four steps, by default."""
    model = load_model(teacher, "cpu", "fp32")
    torch.manual_seed(0)
    changes = Changes(takes_guidance(model.unet), 2)
    for change in changes.parameters():
        change.data += 0.02 * torch.randn_like(change)
    usual = {"guidance": (1.0, 4.0), "scheduler": "ddim", "steps": 4, "timesteps": (999, 559, 239, 59)}
    checksum = network_checksum(model.unet)
    told = StudentInfo(**usual | {"rank": 2, "teacher": model.info.name, "teacher_checksum": checksum} | info)
    save_student(directory, teacher, told, changes.requires_grad_(False))
    return directory


def random_features(side: int = 4) -> torch.Tensor:
    """The same embeddings (side, side, WIDTH) for every test."""
    return torch.randn(side, side, WIDTH, generator=torch.Generator().manual_seed(0))


def few_steps(model: Model, **changes) -> Sampling:
    """Settings of a short run under guidance, resolved for `model`."""
    return resolve_defaults(Sampling(**{"steps": 4, "guidance": 4.0} | changes), model)


def flat_grid(model: Model, rows: int, cols: int, seed: int = 0, **changes):
    """A grid of random embeddings for `model`, all tissue."""
    from largegen.embeddings.grid import EmbeddingGrid, SourceInfo

    generator = torch.Generator().manual_seed(seed)
    values = {
        "features": torch.randn(rows, cols, WIDTH, generator=generator).numpy(),
        "tissue": torch.ones(rows, cols, dtype=torch.bool).numpy(),
        "background": torch.zeros(WIDTH).numpy(),
        **{"tile_px": model.tile_px, "overlap_px": 0, "downsample": 2.0, "origin_xy": (256, 128)},
        **{"encoder": model.info.encoder, "licence": "CC-BY-4.0"},
        "source": SourceInfo("source", "source.svs", "slide", 4096, 4096, (240, 241, 242), mpp=0.25),
    }
    return EmbeddingGrid(**values | changes)
