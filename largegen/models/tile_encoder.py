"""What turns tiles into embeddings: the interface that encoders and a denoiser's features share."""

from typing import TYPE_CHECKING, Protocol

import numpy as np

from largegen.models.encoder_registry import EncoderSpec

if TYPE_CHECKING:
    import torch


class TileEncoder(Protocol):
    """An encoder, as what embeds slides needs it."""

    spec: EncoderSpec
    dim: int  # D of an embedding
    dtype: "torch.dtype"  # what it computes in

    @property
    def fingerprint(self) -> str:
        """A short text that differs for other weights."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Embed tiles: (B, H, W, 3) uint8 -> (B, D) float32."""
