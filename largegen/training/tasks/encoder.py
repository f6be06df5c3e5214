"""Train a small tile encoder without labels: nearby crops attract, all others repel (InfoNCE).

Two crops of one sample lie at most half a tile apart and are turned independently; colour and scale are left alone, so
stain and magnification stay in the embedding, and embeddings change smoothly from tile to tile: what the interpolation
between them relies on.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from largegen.errors import InputError
from largegen.images.contact_sheet import contact_sheet
from largegen.models.encoder import DIRECTORY_FORMAT
from largegen.models.encoder_registry import IMAGENET_MEAN, IMAGENET_STD
from largegen.models.pixels import to_images, to_network
from largegen.models.storage import save_weights
from largegen.runtime.files import write_json
from largegen.slides.slide import Slide
from largegen.training.config import EncoderConfig
from largegen.training.crops import CropDataset
from largegen.training.task import Task
from largegen.version import __version__


def _create(config: EncoderConfig) -> nn.Module:
    import timm

    try:
        return timm.create_model(config.architecture, num_classes=config.width)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"`architecture` {config.architecture}: timm cannot make it: {reason}") from error


class EncoderTask(Task):
    """A timm network whose output is the embedding, and the pairs of crops it learns from."""

    def __init__(
        self, slides: Sequence[tuple[Slide, float]], config: EncoderConfig, seed: int, dtype: torch.dtype | None = None
    ):
        super().__init__()
        torch.manual_seed(seed)  # of the first weights, the same in every process
        self.config, self.dtype = config, dtype
        self.dataset = CropDataset(
            slides, config.tile_px, views=2, shift_px=config.shift_px, held_out=config.held_out, seed=seed
        )
        self.held_out = self.dataset.validation()
        self.settings = {"kind": "encoder", **asdict(config), **self.dataset.describe(), "seed": seed}
        self.network = _create(config)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def embed(self, image: Tensor) -> Tensor:
        """Embed (B, 3, H, W) in [-1, 1]: unit embeddings (B, D) float32."""
        size = (self.config.input_px, self.config.input_px)
        image = F.interpolate((image + 1) / 2, size, mode="bicubic", antialias=True).clamp(0, 1)
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.network(normalised).float(), dim=-1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute InfoNCE (van den Oord et al. 2018) between the views of a batch, and how often they are retrieved."""
        first, second = self.embed(batch["image"].transpose(0, 1).flatten(0, 1)).chunk(2)
        similarity = first @ second.T / self.config.temperature
        target = torch.arange(len(first), device=first.device)
        loss = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
        hits = (similarity.argmax(1) == target).float().mean()
        return loss, {"retrieval": hits}

    def validate(self) -> dict[str, float]:
        """Compute how often a held-out tile's mirror image has the tile itself as nearest neighbour."""
        if not len(self.held_out):
            return {}
        tiles, mirrored = (self._embed_all(t) for t in (self.held_out, self.held_out[:, :, ::-1]))
        hits = (mirrored @ tiles.T).argmax(1) == torch.arange(len(tiles))
        return {"validation_retrieval": hits.float().mean().item()}

    def _embed_all(self, images: np.ndarray) -> Tensor:
        batches = to_network(images).split(32)
        return torch.cat([self.embed(batch.to(self.mean.device)).cpu() for batch in batches])

    def preview(self, path: Path) -> None:
        """Draw rows: a tile and the tiles nearest to it in the embedding, of 256 random training crops."""
        tiles = np.concatenate([to_images(self.dataset[n]["image"][:1]) for n in range(256)])
        embeddings = self._embed_all(tiles)
        nearest = (embeddings[:6] @ embeddings.T).topk(6).indices
        contact_sheet(tiles[nearest.flatten().numpy()][:, ::2, ::2], 6, path)

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors, the form of a `local-dir:` encoder."""
        config = self.config
        directory.mkdir(parents=True, exist_ok=True)
        save_weights(self.network, directory / "model.safetensors", self.dtype)
        write_json(
            directory / "config.json",
            {
                "format": DIRECTORY_FORMAT,
                "version": __version__,
                "architecture": config.architecture,
                "width": config.width,
                "input_px": config.input_px,
                "mean": IMAGENET_MEAN,
                "std": IMAGENET_STD,
                "licence": config.licence,
                "timm_kwargs": {},
                "trained_on": self.settings["slides"],
            },
        )
