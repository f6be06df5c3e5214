"""A transformer over tokens whose blocks are modulated by time and a condition: DiT (Peebles & Xie 2023).

Attention and MLP are timm's. Parameters have the names of the published checkpoints.
"""

from functools import partial

import torch
from diffusers.models.embeddings import get_timestep_embedding
from timm.layers import Attention, Mlp
from torch import Tensor, nn

# Cosine schedule (Nichol & Dhariwal 2021): hardly any signal is left at its end, so that sampling begins from noise.
COSINE_SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
TIME_DIM = 256  # of the sinusoid of the timestep


class DiT(nn.Module):
    """Blocks of adaLN-Zero over tokens that come with their positions.

    Args:
        inputs: Numbers of a token.
        outputs: Numbers that each token becomes.
        width: Of the tokens inside.
        layers: Number of blocks.
        heads: Of their attention.
    """

    def __init__(self, inputs: int, outputs: int, width: int, layers: int, heads: int):
        super().__init__()
        self.x_embedder = nn.Linear(inputs, width)
        self.t_embedder = _TimeEmbedder(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.final_layer = _FinalLayer(width, outputs)
        self.apply(_initialise)
        for layer in (*(block.adaLN_modulation[-1] for block in self.blocks), *self.final_layer.zeros()):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Tensor, positions: Tensor, timestep: Tensor, condition: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Map tokens (B, N, inputs) -> (B, N, outputs).

        Args:
            tokens: (B, N, inputs).
            positions: (N, width), see `positions`.
            timestep: (B,), 0-based.
            condition: (B, width).
            mask: (B, N) bool, False for tokens that the others do not see; None: they see all.
        """
        x = self.x_embedder(tokens) + positions
        modulation = self.t_embedder(timestep).to(x) + condition
        seen = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, modulation, seen)
        return self.final_layer(x, modulation)


class _TimeEmbedder(nn.Module):
    """An MLP of the sinusoid of the timestep: cosines, then sines."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_DIM, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        sinusoid = get_timestep_embedding(timestep, TIME_DIM, flip_sin_to_cos=True, downscale_freq_shift=0)
        return self.mlp(sinusoid.to(self.mlp[0].weight.dtype))


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def _modulation(width: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.attn = Attention(width, heads, qkv_bias=True)
        self.mlp = Mlp(width, 4 * width, act_layer=partial(nn.GELU, approximate="tanh"))
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, x: Tensor, modulation: Tensor, seen: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(modulation)[:, None].chunk(6, -1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, attn_mask=seen)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class _FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm_final = _norm(width)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(modulation)[:, None].chunk(2, -1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)

    def zeros(self) -> tuple[nn.Linear, nn.Linear]:
        """Return the layers that begin as zero."""
        return self.linear, self.adaLN_modulation[-1]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def positions(places: Tensor, width: int) -> Tensor:
    """Compute fixed sine-cosine positions: sines, then cosines, of each coordinate.

    Args:
        places: (N, d) float, d coordinates of each token.
        width: Of a token; divides by 2 d.

    Returns:
        (N, width) float32.
    """
    half = width // (2 * places.shape[1])
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = places.double()[..., None] * frequencies  # (N, d, half)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1).float()
