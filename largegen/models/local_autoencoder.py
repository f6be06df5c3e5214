"""An autoencoder whose latents and images depend on what is near alone: no normalisation layers, no attention."""

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

Around: TypeAlias = tuple[int, ...]  # above, below, left, right


class LocalAutoencoder(ModelMixin, ConfigMixin):
    """A convolutional autoencoder without normalisation layers or attention, around a linear one.

    What it makes of a place depends on the pixels near it alone: colours cannot drift with what else is in the image,
    and an image decoded in bands equals one decoded whole. The linear part (`fit_linear`: principal components one way,
    the least-squares image of 3 x 3 latents the other) is trained in closed form, and the corrections begin at zero.
    The last convolution works on single pixels, so no lattice of squares is left.

    patch_px: side of the squares of pixels that the first and last blocks see as channels; channels, encoder_blocks,
    decoder_blocks: of each resolution, from there down by halves, patch_px * 2^(len - 1) px per latent;
    output_channels: of the last hidden layer, at full resolution; latent_noise: standard deviation of the noise that
    latents get in training (raw latents have a variance of about 1).
    """

    @register_to_config
    def __init__(
        self,
        patch_px: int = 2,
        block_out_channels: tuple[int, ...] = (48, 96, 160),
        encoder_blocks: tuple[int, ...] = (1, 1, 2),
        decoder_blocks: tuple[int, ...] = (2, 3, 3),
        latent_channels: int = 16,
        output_channels: int = 16,
        latent_noise: float = 0.05,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        first, last = block_out_channels[0], block_out_channels[-1]
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch_px), _conv(3 * patch_px**2, first)]
        for n, (channels, blocks) in enumerate(zip(block_out_channels, encoder_blocks, strict=True)):
            if n:
                layers.append(nn.Conv2d(block_out_channels[n - 1], channels, 3, stride=2, padding=1))
            layers += [_Residual(channels) for _ in range(blocks)]
        self.encoder = nn.Sequential(*layers, nn.SiLU(), _zeroed(_conv(last, latent_channels)))

        layers = [_conv(latent_channels, last)]
        for n in reversed(range(len(block_out_channels))):
            channels = block_out_channels[n]
            layers += [_Residual(channels) for _ in range(decoder_blocks[n])]
            if n:
                layers += [nn.Upsample(scale_factor=2), _conv(channels, block_out_channels[n - 1])]
        layers += [nn.SiLU(), _conv(first, output_channels * patch_px**2), nn.PixelShuffle(patch_px)]
        self.decoder = nn.Sequential(*layers, nn.SiLU(), _zeroed(_conv(output_channels, 3)))

        square = 3 * self._factor**2
        self.analysis = nn.Conv2d(square, latent_channels, 1)
        self.synthesis = _conv(latent_channels, square)

    @property
    def _factor(self) -> int:
        return self.config.patch_px * 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def reach(self) -> int:
        """How many latents away from a pixel's own those may lie at most that it depends on."""
        return self._reaches()[0]

    def _reaches(self) -> list[int]:
        """How many places of each layer's input lie around those that the image's own pixels come from."""
        reaches, reach = [], 0
        for layer in reversed(self.decoder):
            reach = -(-reach // _enlarges(layer)) + {nn.Conv2d: 1, _Residual: 2}.get(type(layer), 0)
            reaches.append(reach)
        return reaches[::-1]

    @torch.no_grad()
    def fit_linear(self, images: Tensor) -> None:
        """Set the linear maps to the best ones for images (N, 3, H, W) in [-1, 1], the corrections to zero."""
        squares = F.pixel_unshuffle(images, self._factor).double()
        flat = squares.movedim(1, -1).flatten(0, -2)
        mean, count = flat.mean(0), self.config.latent_channels
        variance, axes = torch.linalg.eigh(torch.cov(flat.T))
        std, axes = variance.flip(0)[:count].clamp(min=1e-8).sqrt(), axes.flip(1)[:, :count]
        axes = axes * axes.gather(0, axes.abs().argmax(0)[None]).sign()  # their sign is the library's choice
        self.analysis.weight.copy_((axes / std).T[..., None, None])
        self.analysis.bias.copy_(-(axes / std).T @ mean)
        self.fit_synthesis(images)

    @torch.no_grad()
    def fit_synthesis(self, images: Tensor) -> None:
        """Set the linear decoder to the best one for the linear encoder and images (N, 3, H, W) in [-1, 1]."""
        squares = F.pixel_unshuffle(images, self._factor).double()
        latents = F.conv2d(squares, self.analysis.weight.double(), self.analysis.bias.double())
        near = F.unfold(latents, 3).movedim(1, -1).flatten(0, -2)  # (M, 9 C), of latents with all their neighbours
        near = torch.cat([near, torch.ones_like(near[:, :1])], 1)
        wanted = squares[..., 1:-1, 1:-1].movedim(1, -1).flatten(0, -2)
        gram = near.T @ near
        gram += 1e-4 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solution = torch.linalg.solve(gram, near.T @ wanted)
        self.synthesis.weight.copy_(solution[:-1].T.reshape_as(self.synthesis.weight))
        self.synthesis.bias.copy_(solution[-1])

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        """Images (B, 3, H, W) in [-1, 1] -> the distribution of their latents (B, C, H/f, W/f)."""
        mean = self.analysis(F.pixel_unshuffle(images, self._factor)) + self.encoder(images)
        logvar = torch.full_like(mean, 2 * math.log(self.config.latent_noise))
        return AutoencoderKLOutput(DiagonalGaussianDistribution(torch.cat([mean, logvar], 1)))

    def decode(self, latents: Tensor, around: Around = (0, 0, 0, 0)) -> DecoderOutput:
        """Latents (B, C, h, w) -> images (B, 3, f*h, f*w), about [-1, 1].

        Args:
            latents: A canvas, or a part of it with at least `reach` latents of it around, where it has these.
            around: Latents above, below, left and right that the images do not show: no layer computes more of them
                than the next one sees.
        """
        image, correction, kept = F.pixel_shuffle(self.synthesis(latents), self._factor), latents, around
        for layer, reach in zip(self.decoder, self._reaches(), strict=True):
            correction, kept = _trimmed(correction, kept, reach)
            correction, kept = layer(correction), tuple(side * _enlarges(layer) for side in kept)
        image, _ = _trimmed(image, tuple(side * self._factor for side in around), 0)
        return DecoderOutput(image + _trimmed(correction, kept, 0)[0])


def _trimmed(x: Tensor, around: Around, reach: int) -> tuple[Tensor, Around]:
    """Leave at most `reach` places around the middle of (B, C, h, w)."""
    above, below, left, right = (max(0, side - reach) for side in around)
    trimmed = x[..., above : x.shape[-2] - below, left : x.shape[-1] - right]
    return trimmed, tuple(min(side, reach) for side in around)


def _enlarges(layer: nn.Module) -> int:
    match layer:
        case nn.Upsample():
            return int(layer.scale_factor)
        case nn.PixelShuffle():
            return layer.upscale_factor
    return 1


class _Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), beginning as x."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = _conv(channels, channels), _zeroed(_conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv
