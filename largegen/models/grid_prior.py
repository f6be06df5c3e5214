"""The prior over grids of embeddings: which tiles lie beside which, where glass lies, and how a condition changes it.

A grid becomes a canvas of a few numbers for each tile: principal components of the embeddings, whitened, and whether
the tile holds tissue. A DiT removes noise from windows of it, as the denoiser does from windows of latents.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from largegen.errors import ModelError
from largegen.models.denoiser import to_eps
from largegen.models.directory import is_prior
from largegen.models.dit import COSINE_SCHEDULE, DiT, positions
from largegen.models.info import ModelInfo
from largegen.models.storage import load_network
from largegen.runtime.device import resolve_device

SCHEDULE = DDPMScheduler(**COSINE_SCHEDULE, prediction_type="v_prediction")
NO_LABEL = -1


class GridPrior(ModelMixin, ConfigMixin):
    """p(grid | scale, label, vector); each of label and vector may be left out.

    Args:
        embedding_dim: D of the embeddings.
        components: K principal components of them that are modelled.
        window: Side of the grids that the network sees, in tiles.
        width: Of the tokens.
        layers: Of the transformer.
        heads: Of its attention.
        scales: Sizes of a pixel that it knows grids at, um or, of scenes, metres; the finest first.
        labels: That it knows, in order.
        vector_dim: Of the text or image vector that it takes; 0: none.
        text_encoder: Name of what makes the vectors: see text.py.
        text_licence: Licence of that.
        kind: What the grids are of: slide, scene or image.
        background_rgb: Colour of empty glass or of no data.
        info: What travels with the weights: see info.ModelInfo.
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int,
        components: int,
        window: int = 16,
        width: int = 192,
        layers: int = 5,
        heads: int = 6,
        scales: Sequence[float] = (),
        labels: Sequence[str] = (),
        vector_dim: int = 0,
        text_encoder: str = "",
        text_licence: str = "",
        kind: str = "slide",
        background_rgb: Sequence[int] = (255, 255, 255),
        info: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.network = DiT(components + 1, components + 1, width, layers, heads)
        self.scale = nn.Embedding(max(1, len(scales)), width)
        self.label = nn.Embedding(len(labels) + 1, width)  # the last is: no label
        self.vector = nn.Sequential(nn.Linear(self.vector_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.no_vector = nn.Parameter(torch.zeros(width))
        places = torch.cartesian_prod(torch.arange(float(window)), torch.arange(float(window)))
        self.register_buffer("positions", positions(places, width), persistent=False)
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("basis", torch.zeros(embedding_dim, components))  # each column as long as its deviation
        self.register_buffer("background", torch.zeros(embedding_dim))
        self.register_buffer("prompt_mean", torch.zeros(self.vector_dim))  # of the vectors of prompts

    @property
    def channels(self) -> int:
        """Numbers of each tile on a canvas."""
        return int(self.config.components) + 1

    @property
    def vector_dim(self) -> int:
        """Numbers of a condition's vector; 1, which is always zero, for a prior that takes none."""
        return max(1, int(self.config.vector_dim))

    @property
    def info(self) -> ModelInfo:
        """What travels with the weights."""
        return ModelInfo.from_dict(self.config.info or {})

    def fit(self, embeddings: Tensor, background: Tensor) -> None:
        """Set the principal components to those of embeddings (N, D) of tissue, and the embedding (D,) of glass."""
        embeddings = embeddings.double()
        self.mean.copy_(embeddings.mean(0))
        variance, basis = torch.linalg.eigh(torch.cov(embeddings.T))
        variance, basis = (part.flip(-1)[..., : self.config.components] for part in (variance, basis))
        self.basis.copy_(basis * variance.clamp(min=1e-12).sqrt())
        self.background.copy_(background)

    def to_canvas(self, features: Tensor, tissue: Tensor) -> Tensor:
        """Map a grid (..., h, w, D), tissue (..., h, w) bool -> canvas (..., K + 1, h, w) float32; glass is zeros."""
        whitening = self.basis / self.basis.square().sum(0)
        components = torch.where(tissue[..., None], (features.float() - self.mean) @ whitening, 0)
        return torch.cat([components, tissue[..., None].float() * 2 - 1], -1).movedim(-1, -3)

    def from_canvas(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Map a canvas (..., K + 1, h, w) -> grid (..., h, w, D) float32 and tissue (..., h, w) bool."""
        values = canvas.movedim(-3, -1)
        tissue = values[..., -1] > 0
        features = values[..., :-1] @ self.basis.T + self.mean
        return torch.where(tissue[..., None], features, self.background), tissue

    def condition(self, scale: Tensor, label: Tensor, vector: Tensor) -> Tensor:
        """Embed conditions.

        Args:
            scale: (B,) index into `scales`.
            label: (B,) index into `labels`; NO_LABEL for none.
            vector: (B, vector_dim), of length 1 after the mean is taken off, see `centred`; zeros for none.

        Returns:
            (B, 1, W), which `forward` takes.
        """
        scaled = vector * self.vector_dim**0.5  # numbers about as large as those of the other embeddings
        given = torch.where(vector.any(-1, keepdim=True), self.vector(scaled), self.no_vector)
        return (self.scale(scale) + self.label(label % self.label.num_embeddings) + given)[:, None]

    def forward(self, noisy: Tensor, timestep: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict v.

        Args:
            noisy: (B, K + 1, window, window).
            timestep: (B,), 0-based.
            condition: (B, 1, W).
            mask: (B, window, window) bool, False where the grid does not reach; None: it reaches everywhere.

        Returns:
            (B, K + 1, window, window).
        """
        seen = None if mask is None else mask.flatten(1)
        tokens = self.network(noisy.flatten(2).mT, self.positions, timestep, condition[:, 0], seen)
        return tokens.mT.unflatten(2, noisy.shape[2:])

    @torch.inference_mode()
    def eps(self, noisy: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Predict the noise of windows (B, K + 1, window, window) at one timestep: the same shape, float32."""
        output = self(noisy, timestep.to(noisy.device).expand(len(noisy)), condition)
        return to_eps(output, noisy, timestep, SCHEDULE)


def centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """Take the mean (V,) of their kind off vectors (..., V), and make them of length 1."""
    return F.normalize(vectors - mean, dim=-1)


def load_prior(directory: str | Path, device: str | torch.device = "auto") -> GridPrior:
    """Load a prior for sampling.

    Args:
        directory: Of the prior, or the run directory of `largegen train-prior`.
        device: auto, cpu, cuda, cuda:N or mps, or a device.

    Raises:
        ModelError: For a directory that holds none, and for a missing, damaged or wrong-shaped weight file.
    """
    path = Path(directory)
    path = path / "model" if is_prior(path / "model") else path
    if not is_prior(path):
        raise ModelError(f"{directory}: no grid prior there; `largegen train-prior` makes one")
    prior = load_network(path, {"GridPrior": GridPrior}).eval().requires_grad_(False)
    return prior.to(device if isinstance(device, torch.device) else resolve_device(device))
