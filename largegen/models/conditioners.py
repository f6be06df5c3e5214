"""Conditioners: from SSL embeddings to the denoiser's context tokens.

[L] is "Learned representation-guided diffusion models for large-image generation", CVPR 2024; [Z] is "ZoomLDM",
CVPR 2025. A conditioner first arranges grids of any size into tensors of one shape, so that samples of different levels
go through the networks as one batch: `conditioner(*conditioner.arrange(grids, level))`.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from largegen.errors import InputError

GRID = 8  # side of the largest grid that the Summarizer sees [Z]
SLOTS = GRID**2  # places for the grid's tokens


class PatchConditioner(ModelMixin, ConfigMixin):
    """One cross-attention token from one patch embedding: L2-normalise, then a linear layer [L, sec. 3].

    Args:
        embedding_dim: D of the embeddings.
        cross_attention_dim: C of the denoiser's cross-attention.
        normalize: Whether embeddings are L2-normalised; some published models were trained without.
    """

    @register_to_config
    def __init__(self, embedding_dim: int, cross_attention_dim: int, normalize: bool = True):
        super().__init__()
        self.projection = nn.Linear(embedding_dim, cross_attention_dim)

    def arrange(self, grids: Tensor, level: int = 0) -> tuple[Tensor, ...]:
        """Take grids (N, 1, 1, D) of level 0 -> their embeddings (N, D).

        Raises:
            InputError: For any other grid.
        """
        return (_single(grids, level),)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map (N, D) float, of any length -> (N, 1, C) in the weights' dtype."""
        embeddings = _unit(embeddings) if self.config.normalize else embeddings.float()
        return self.projection(embeddings.to(self.projection.weight.dtype))[:, None]

    def null(self, n: int = 1) -> Tensor:
        """Return the condition of `n` unconditional samples: the projection of the zero embedding, (n, 1, C)."""
        weight = self.projection.weight
        return self(torch.zeros(n, self.config.embedding_dim, device=weight.device))


class PatchRegionConditioner(ModelMixin, ConfigMixin):
    """Two tokens, from a patch embedding and from that of the region around it [L].

    Each is L2-normalised, then goes through a linear layer of its own. Where there is no region its embedding counts
    as zero.

    Args:
        embedding_dim: D of the patch embeddings.
        region_dim: D of the region embeddings.
        cross_attention_dim: C of the denoiser's cross-attention.
        normalize: Whether embeddings are L2-normalised; some published models were trained without.
    """

    @register_to_config
    def __init__(self, embedding_dim: int, region_dim: int, cross_attention_dim: int, normalize: bool = True):
        super().__init__()
        self.patch = nn.Linear(embedding_dim, cross_attention_dim)
        self.region = nn.Linear(region_dim, cross_attention_dim)

    def arrange(self, grids: Tensor, level: int = 0) -> tuple[Tensor, ...]:
        """Take grids (N, 1, 1, D) of level 0 -> patch embeddings (N, embedding_dim), region embeddings (N, region_dim).

        D is embedding_dim, or the sum of both dims: a patch's embedding and then its region's.

        Raises:
            InputError: For any other grid.
        """
        flat, dim = _single(grids, level), self.config.embedding_dim
        patch, region = flat[:, :dim], flat[:, dim:]
        if not region.shape[1]:
            region = flat.new_zeros(len(flat), self.config.region_dim)
        return patch, region

    def forward(self, patch: Tensor, region: Tensor) -> Tensor:
        """Map (N, embedding_dim) and (N, region_dim) float, of any length -> (N, 2, C) in the weights' dtype."""
        dtype = self.patch.weight.dtype
        patch, region = (_unit(x) if self.config.normalize else x.float() for x in (patch, region))
        return torch.stack((self.patch(patch.to(dtype)), self.region(region.to(dtype))), 1)

    def null(self, n: int = 1) -> Tensor:
        """Return the condition of `n` unconditional samples: the projections of zero embeddings, (n, 2, C)."""
        device = self.patch.weight.device
        dims = self.config.embedding_dim, self.config.region_dim
        return self(*(torch.zeros(n, dim, device=device) for dim in dims))


def _single(grids: Tensor, level: int) -> Tensor:
    """Take grids (N, 1, 1, D) of level 0 -> (N, D) float32. Raises InputError for any other."""
    if level or grids.shape[1:3] != (1, 1):
        raise InputError("this model's conditioner takes single embeddings: it knows no level but the base")
    return grids[:, 0, 0].float()


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1)


class Summarizer(ModelMixin, ConfigMixin):
    """65 tokens from a grid of embeddings and the level that it belongs to [Z, sec. 3.2].

    The grid's tokens lie in the middle of 64 slots, row by row, the other slots hold a learned pad token, and a learned
    token of the level comes first; a pre-norm transformer encoder mixes them. A grid longer than 8 in one direction is
    average-pooled to 8 there; n tokens take the slots from 32 - n // 2 on, which is the published place of 1x1, 2x2,
    4x4 and 8x8 grids.

    Args:
        embedding_dim: D of the embeddings.
        cross_attention_dim: C of the denoiser's cross-attention.
        hidden_dim: Of the encoder's tokens.
        layers: Of the encoder.
        heads: Of its attention.
        mlp_dim: Of its feed-forward layers.
        levels: How many magnifications there are.
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int,
        cross_attention_dim: int,
        hidden_dim: int = 512,
        layers: int = 12,
        heads: int = 8,
        mlp_dim: int = 2048,
        levels: int = 8,
    ):
        super().__init__()
        self.projection = nn.Linear(embedding_dim, hidden_dim)
        self.pad = nn.Parameter(torch.zeros(1, 1, hidden_dim))
        # Not nn.Embedding(levels, hidden_dim): made without weights, as to load it, it would load torch's compiler.
        self.level = nn.Embedding.from_pretrained(torch.randn(levels, hidden_dim), freeze=False)
        self.position = nn.Parameter(torch.empty(1, 1 + SLOTS, hidden_dim).normal_(std=0.02))
        block = nn.TransformerEncoderLayer(
            hidden_dim,
            heads,
            mlp_dim,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.encoder = nn.TransformerEncoder(block, layers, norm, enable_nested_tensor=False)
        self.output = nn.Linear(hidden_dim, cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def arrange(self, grids: Tensor, level: int = 0) -> tuple[Tensor, ...]:
        """Lay grids (N, h, w, D) of one level in slots.

        Each embedding is standardised over its channels, after the pooling.

        Returns:
            The slots (N, 64, D), which of them are filled (N, 64) bool, and the levels (N,).

        Raises:
            InputError: For a level that the Summarizer does not know.
        """
        if not 0 <= level < self.config.levels:
            raise InputError(f"level {level}: this model has levels 0 to {self.config.levels - 1}")
        count, rows, cols, dim = grids.shape
        size = min(rows, GRID), min(cols, GRID)
        tokens = F.adaptive_avg_pool2d(grids.float().movedim(-1, 1), size).flatten(2).mT  # (N, D, h, w) => (N, n, D)
        tokens = (tokens - tokens.mean(-1, keepdim=True)) / tokens.std(-1, keepdim=True).clamp(min=1e-12)
        start = SLOTS // 2 - tokens.shape[1] // 2
        slots = torch.zeros(count, SLOTS, dim, device=grids.device)
        slots[:, start : start + tokens.shape[1]] = tokens
        filled = torch.zeros(count, SLOTS, dtype=torch.bool, device=grids.device)
        filled[:, start : start + tokens.shape[1]] = True
        return slots, filled, torch.full((count,), level, device=grids.device)

    def forward(self, slots: Tensor, filled: Tensor, levels: Tensor) -> Tensor:
        """Map arranged grids -> (N, 65, C) in the weights' dtype."""
        tokens = torch.where(filled[..., None], self.projection(slots.to(self.projection.weight.dtype)), self.pad)
        tokens = torch.cat([self.level(levels)[:, None], tokens], 1) + self.position
        return self.norm(self.output(self.encoder(tokens)))

    def null(self, n: int = 1) -> Tensor:
        """Return the condition of `n` unconditional samples: zeros in place of the tokens [Z], (n, 65, C)."""
        shape = (n, 1 + SLOTS, self.config.cross_attention_dim)
        return torch.zeros(shape, dtype=self.pad.dtype, device=self.pad.device)


# The conditioners that a model directory can name in its model_index.json.
CONDITIONERS: dict[str, type[ModelMixin]] = {
    c.__name__: c for c in (PatchConditioner, PatchRegionConditioner, Summarizer)
}
