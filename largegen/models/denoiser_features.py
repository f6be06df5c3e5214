"""What the denoiser sees in a tile: its activations at one magnification, as an encoder's embedding [Z]."""

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largegen.errors import InputError
from largegen.models.encoder import Encoder
from largegen.models.encoder_registry import EncoderSpec
from largegen.models.feature_options import LAST, FeatureOptions
from largegen.models.model import Model
from largegen.models.pixels import to_network
from largegen.runtime.fingerprints import network_checksum

ENCODED_TILES = 32  # at once


class DenoiserFeatures:
    """The mean over a block's activations, in place of an encoder: the same attributes and `encode`.

    A tile of level k is 2^k base tiles wide and high; its picture is their mean, as the model was trained on. The noise
    is the same for every tile, so that a tile's features depend on nothing but its pixels.

    Args:
        model: Whose denoiser.
        level: Magnification level, 0 the finest.
        options: Which activations.
        encoder: The model's, for the tile's own condition; None for the null condition.

    Raises:
        InputError: For a block that the denoiser does not have, or a model whose own condition a tile cannot give.
    """

    def __init__(self, model: Model, level: int, options: FeatureOptions, encoder: Encoder | None = None) -> None:
        options.check()
        if options.condition == "own" and model.region_dim:
            raise InputError(f"`condition` own: model {model.info.name} is conditioned on regions, too; use null")
        block = f"up{len(model.unet.up_blocks) - 1}" if options.block == LAST else options.block
        options = replace(options, block=block)
        self.model, self.level, self.options = model, level, options
        self.encoder = encoder if options.condition == "own" else None
        self.dtype, self.side = model.dtype, 2**level
        self._block, self.dim = _block(model, block)
        shape = (options.noises, model.autoencoder.channels, model.window, model.window)
        self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
        name = f"{model.info.name} {model.level_names[level]} {block} t{options.timestep} {options.condition}"
        self.spec = EncoderSpec(
            name=name,
            dim=self.dim,
            precision=str(model.dtype),
            licence=model.info.licence,
            page="",
            source="",
            architecture="",
            input_px=model.tile_px * self.side,
        )
        parts = [network_checksum(net) for net in (model.unet, model.conditioner, model.autoencoder.vae)]
        about = [*parts, asdict(options), level, self.encoder.fingerprint if self.encoder else ""]
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Take the features of tiles: (B, 2^k * px, 2^k * px, 3) uint8 -> (B, D) float32."""
        return np.concatenate([self._encode(image[None]) for image in images]) if self.level else self._encode(images)

    @torch.inference_mode()
    def _encode(self, images: np.ndarray) -> np.ndarray:
        model, options = self.model, self.options
        pictures = F.avg_pool2d(to_network(images), self.side)
        latents = model.autoencoder.encode(pictures)
        context = self._context(images).to(model.device, model.dtype)
        a = model.scheduler.alphas_cumprod[options.timestep]
        seen = []
        for noise in self._noise:
            noisy = a.sqrt() * latents + (1 - a).sqrt() * noise.to(latents)
            noisy = noisy.to(model.dtype, memory_format=torch.channels_last)
            seen.append(_activations(model.unet, self._block, noisy, options.timestep, context).float().mean((2, 3)))
        features: np.ndarray = torch.stack(seen).mean(0).cpu().numpy()
        return features

    def _context(self, images: np.ndarray) -> Tensor:
        """Find the condition of tiles: tokens (B, T, D')."""
        if self.encoder is None:
            return self.model.null_context().expand(len(images), -1, -1)
        side, px = self.side, self.model.tile_px
        tiles = images.reshape(-1, side, px, side, px, 3).swapaxes(2, 3).reshape(-1, px, px, 3)
        starts = range(0, len(tiles), ENCODED_TILES)
        parts = [self.encoder.encode(np.ascontiguousarray(tiles[at : at + ENCODED_TILES])) for at in starts]
        grids = torch.from_numpy(np.concatenate(parts)).reshape(len(images), side, side, -1)
        return self.model.context(grids, self.level)


class _Seen(Exception):
    def __init__(self, activations: Tensor) -> None:
        self.activations = activations


def _activations(unet: nn.Module, block: nn.Module, noisy: Tensor, timestep: int, context: Tensor) -> Tensor:
    """Run the denoiser up to a block, and return what comes out of it: (B, C, h, w)."""

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        raise _Seen(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(see)
    try:
        unet(noisy, timestep, context)
    except _Seen as seen:
        return seen.activations
    finally:
        handle.remove()
    raise AssertionError("the denoiser ran past its block")


def _block(model: Model, name: str) -> tuple[nn.Module, int]:
    """Find a block of the denoiser and its number of channels.

    Raises:
        InputError: For a name that it does not have.
    """
    unet, channels = model.unet, list(model.unet.config.block_out_channels)
    found = {f"down{n}": (block, channels[n]) for n, block in enumerate(unet.down_blocks)}
    found["mid"] = unet.mid_block, channels[-1]
    found |= {f"up{n}": (block, channels[-1 - n]) for n, block in enumerate(unet.up_blocks)}
    if name not in found:
        raise InputError(f"`block` {name}: the denoiser of model {model.info.name} has {', '.join(found)}")
    return found[name]
