"""The conditioning diffusion model (CDM) of ZoomLDM: the Summarizer's tokens for one patch at one magnification [Z].

[Z] is "ZoomLDM", CVPR 2025. It knows nothing of what lies beside the patch.
"""

from pathlib import Path

import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from largegen.models.dit import COSINE_SCHEDULE, DiT, positions
from largegen.models.storage import load_network

FOLDER = "cdm"  # in a model directory
SCHEDULE = DDIMScheduler(**COSINE_SCHEDULE, prediction_type="sample", timestep_spacing="linspace")


class TokenPrior(ModelMixin, ConfigMixin):
    """p(tokens | level): a DiT over the tokens, which predicts the clean ones and a variance.

    Args:
        token_dim: Numbers of a token: the denoiser's cross_attention_dim.
        width: Of the tokens inside.
        layers: Of the transformer.
        heads: Of its attention.
        levels: How many magnifications there are.
        tokens: How many tokens a patch has.
    """

    @register_to_config
    def __init__(self, token_dim: int, width: int, layers: int, heads: int, levels: int, tokens: int = 65):
        super().__init__()
        self.network = DiT(token_dim, 2 * token_dim, width, layers, heads)
        self.level = nn.Embedding(levels, width)
        self.register_buffer("positions", positions(torch.arange(float(tokens))[:, None], width), persistent=False)

    def forward(self, noisy: Tensor, timestep: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Map noisy tokens (B, T, C), timesteps (B,), levels (B,) -> clean tokens and variance (B, T, C) each."""
        clean, variance = self.network(noisy, self.positions, timestep, self.level(level)).chunk(2, -1)
        return clean, variance


def load_token_prior(directory: Path | None, device: torch.device) -> TokenPrior | None:
    """Load the CDM of a model directory; None where it has none.

    Raises:
        ModelError: For a missing, damaged or wrong-shaped weight file.
    """
    if directory is None or not (directory / FOLDER).is_dir():
        return None
    prior = load_network(directory / FOLDER, {"TokenPrior": TokenPrior}).eval().requires_grad_(False)
    return prior.to(device)
