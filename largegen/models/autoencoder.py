"""Images <-> latents: an autoencoder of diffusers or our own, and the normalisation of its latents."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, VQModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

from largegen.errors import ModelError
from largegen.models.local_autoencoder import Around, LocalAutoencoder
from largegen.models.storage import load_network
from largegen.runtime.fingerprints import network_digest

FIRST_LOGVAR = -5.0  # of the latents' posterior before training, where the latents' own variance is 1


class ResidualAutoencoder(ModelMixin, ConfigMixin):
    """The principal components of squares of pixels, and a small KL autoencoder that mends what they get wrong.

    Latents are a linear map of each f x f square plus a convolutional correction; images likewise. The linear maps
    are fitted in closed form (`fit_linear`) and the corrections begin at zero, so training starts from the best linear
    autoencoder, where a plain convolutional one needs hours on a CPU to get. No attention: cost grows with the pixels
    alone. f = patch_px * 2^(levels - 1); the convolutions see squares of `patch_px` px as channels.
    """

    @register_to_config
    def __init__(
        self,
        patch_px: int = 4,
        block_out_channels: tuple[int, ...] = (64, 128),
        layers_per_block: int = 1,
        latent_channels: int = 24,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        levels = len(block_out_channels)
        self.trunk = AutoencoderKL(
            in_channels=3 * patch_px**2,
            out_channels=3 * patch_px**2,
            block_out_channels=block_out_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=8,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        square = 3 * self._factor**2
        self.analysis = nn.Conv2d(square, latent_channels, 1)
        self.synthesis = nn.Conv2d(latent_channels, square, 1)

    @property
    def _factor(self) -> int:
        return self.config.patch_px * 2 ** (len(self.config.block_out_channels) - 1)

    @torch.no_grad()
    def fit_linear(self, images: Tensor) -> None:
        """Set the linear maps to the principal components of images (N, 3, H, W), the corrections to zero."""
        squares = F.pixel_unshuffle(images, self._factor).movedim(1, -1).flatten(0, -2).double()
        mean, count = squares.mean(0), self.config.latent_channels
        variance, axes = torch.linalg.eigh(torch.cov(squares.T))
        std, axes = variance.flip(0)[:count].clamp(min=1e-8).sqrt(), axes.flip(1)[:, :count]
        axes = axes * axes.gather(0, axes.abs().argmax(0)[None]).sign()  # their sign is the library's choice
        self.analysis.weight.copy_((axes / std).T[..., None, None])
        self.analysis.bias.copy_(-(axes / std).T @ mean)
        self.synthesis.weight.copy_((axes * std)[..., None, None])
        self.synthesis.bias.copy_(mean)
        for last in (self.trunk.encoder.conv_out, self.trunk.decoder.conv_out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.trunk.encoder.conv_out.bias[count:] = FIRST_LOGVAR

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        """Images (B, 3, H, W) in [-1, 1] -> the distribution of their latents (B, C, H/f, W/f)."""
        correction = self.trunk.encode(F.pixel_unshuffle(images, self.config.patch_px)).latent_dist
        mean = self.analysis(F.pixel_unshuffle(images, self._factor)) + correction.mean
        return AutoencoderKLOutput(DiagonalGaussianDistribution(torch.cat([mean, correction.logvar], 1)))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Latents (B, C, h, w) -> images (B, 3, f*h, f*w), about [-1, 1]."""
        correction = F.pixel_shuffle(self.trunk.decode(latents).sample, self.config.patch_px)
        return DecoderOutput(F.pixel_shuffle(self.synthesis(latents), self._factor) + correction)


AUTOENCODERS = {c.__name__: c for c in (AutoencoderKL, VQModel, ResidualAutoencoder, LocalAutoencoder)}


class Autoencoder:
    """An autoencoder whose latents have unit variance, whatever its own scale is."""

    def __init__(self, vae: AutoencoderKL | VQModel | ResidualAutoencoder | LocalAutoencoder):
        self.vae = vae
        mean, std = latent_statistics(vae)
        self._mean, self._std = mean.to(vae.device), std.to(vae.device)

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return self.vae.config.get("patch_px", 1) * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.vae.config.latent_channels

    @property
    def importance(self) -> Tensor:
        """How much each latent channel moves the images, (C, 1, 1), 1 on average; all 1 where it is not known."""
        if not isinstance(self.vae, ResidualAutoencoder | LocalAutoencoder):
            return torch.ones_like(self._std)
        change = self.vae.synthesis.weight.float().square().sum((0, 2, 3)).sqrt()[:, None, None] * self._std
        return change / change.mean()

    @property
    def reach(self) -> int | None:
        """How many latents away from a pixel's own those may lie that it depends on; None: as far as the image goes."""
        return self.vae.reach if isinstance(self.vae, LocalAutoencoder) else None

    @property
    def fingerprint(self) -> str:
        """Tells apart autoencoders that give different latents."""
        return network_digest(self.vae, (self._mean.tolist(), self._std.tolist()))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Autoencoder":
        """Move the network and the normalisation to a device, the network as `dtype`."""
        # Not ModelMixin.to, which warns of layers to be kept in fp32 though there are none.
        nn.Module.to(self.vae, device=device, dtype=dtype, memory_format=torch.channels_last)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f) float32, without sampling."""
        images = images.to(self.vae.device, self.vae.dtype, memory_format=torch.channels_last)
        encoded = self.vae.encode(images)
        raw = encoded.latents if isinstance(self.vae, VQModel) else encoded.latent_dist.mode()
        return (raw.float() - self._mean) / self._std  # raw latents => unit variance

    @torch.inference_mode()
    def decode(self, latents: Tensor, around: Around = (0, 0, 0, 0)) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, f*h, f*w) float32, about [-1, 1].

        around: Latents above, below, left and right that the images do not show; only where `reach` is known.
        """
        raw = latents.to(self.vae.device).float() * self._std + self._mean  # unit variance => raw latents
        raw = raw.to(self.vae.dtype, memory_format=torch.channels_last)
        if isinstance(self.vae, LocalAutoencoder):
            return self.vae.decode(raw, around).sample.float()
        return self.vae.decode(raw).sample.float()


def latent_statistics(vae: AutoencoderKL | VQModel | ResidualAutoencoder | LocalAutoencoder) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C, 1, 1) float32 that the autoencoder's raw latents are normalised with.

    VQ latents are used as they are [method of both papers], unless `latents_scale` in the configuration says what they
    are multiplied by; a KL autoencoder says its own.
    """
    config = vae.config
    channels = config.latent_channels
    mean, std = torch.zeros(channels), torch.ones(channels)
    if isinstance(vae, VQModel):
        std = std / (config.get("latents_scale") or 1.0)
    else:
        if config.get("latents_mean") and config.get("latents_std"):
            mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
        else:
            mean = mean + (config.get("shift_factor") or 0.0)
            std = std / (config.get("scaling_factor") or 1.0)
    return mean.float()[:, None, None], std.float()[:, None, None]


def load_autoencoder(path: Path) -> Autoencoder:
    """Load the autoencoder of a model or run directory, or a bare one in diffusers' layout. Raises ModelError."""
    path = Path(path)
    for directory in (path / "model" / "vae", path / "vae", path):  # a run directory has a config.json of its own
        if (directory / "config.json").is_file():
            return Autoencoder(load_network(directory, AUTOENCODERS).eval().requires_grad_(False))
    raise ModelError(f"{path}: holds no autoencoder (no config.json, vae/ or model/vae/)")
