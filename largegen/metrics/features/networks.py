"""The networks in whose features images are compared: Inception for FID, CLIP for CLIP FID, VGG16, and any encoder.

FID and CLIP FID depend on how an image is resized before the network sees it. Both follow clean-fid (Parmar et al.
2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation").
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.errors import InputError, ModelError, first_line
from largegen.metrics.results import NotApplicable
from largegen.models.encoder import load_encoder
from largegen.models.encoder_registry import EncoderSpec
from largegen.models.perceptual import load_perceptual
from largegen.models.pixels import to_network
from largegen.models.script_check import check_script
from largegen.runtime.device import keep_freed_memory, resolve_device
from largegen.runtime.downloads import cached_file, file_sha256
from largegen.runtime.hub import page_of

if TYPE_CHECKING:
    import torch
    from torch import nn


INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_PX = 299
CLIP_REPO = "timm/vit_base_patch32_clip_224.openai"
CLIP_SHA256 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"  # of OpenAI's ViT-B-32.pt
CLIP = EncoderSpec(
    name="clip",
    dim=512,
    input_px=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    precision="fp32",
    licence="MIT",
    page=page_of(CLIP_REPO),
    source=f"hf-hub:{CLIP_REPO}",
    architecture="vit_base_patch32_clip_quickgelu_224",
    timm_kwargs={"num_classes": 512},  # the projection into the space that images and texts share
)


VGG_BATCH = 8  # images: all 32 crops of a batch would take 2 GB


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns images into features, in two steps: one for worker threads, one for the device."""

    name: str  # inception, clip, vgg16 or encoder:NAME
    title: str  # for people
    dim: int  # D of the features
    key: dict[str, str]  # what features must share to be compared: JSON values
    standard: bool  # Inception's and CLIP's weights and precision are known to be those that FID and CLIP FID mean
    licence: str  # of the weights
    device: "torch.device"
    prepare: Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 => what `features` takes of it
    features: Callable[[np.ndarray], np.ndarray]  # a batch of prepared images, stacked => (B, D) float32


def load_network(
    name: str,
    weights: Path | None = None,
    device: "str | torch.device" = "auto",
    dtype: "torch.dtype | None" = None,
) -> FeatureNetwork:
    """Load `inception`, `clip`, `vgg16` or `encoder:NAME`.

    Args:
        name: Of the network.
        weights: A file; by default the published weights. VGG16 has its own only.
        device: As `resolve_device` takes it.
        dtype: Instead of the network's own precision, which is fp32 for Inception and CLIP on every device (clean-fid
            runs CLIP in fp16 on a GPU). VGG16 is always in fp32.

    Raises:
        InputError: An unknown name.
        ModelError: Weights that do not fit.
        HubError: There are no weights to be had.
        NotApplicable: VGG16 without the package that carries it.
    """
    device = resolve_device(device) if isinstance(device, str) else device
    if device.type == "cpu":
        keep_freed_memory()
    if name == "inception":
        return _inception(weights, device, dtype)
    if name == "clip":
        return _clip(weights, device, dtype)
    if name == "vgg16":
        return _vgg16(device)
    kind, _, encoder = name.partition(":")
    if kind == "encoder" and encoder:
        return _encoder(encoder, weights, device, dtype)
    raise InputError(f"network {name!r}: unknown; use inception, clip, vgg16 or encoder:NAME")


def _inception(weights: Path | None, device: "torch.device", dtype: "torch.dtype | None") -> FeatureNetwork:
    import torch
    from cleanfid.resize import build_resizer

    path = Path(
        weights or cached_file(INCEPTION_URL, INCEPTION_SHA256, Path(INCEPTION_URL).name, "`inception_weights`")
    )
    sha256 = file_sha256(path)
    if sha256 != INCEPTION_SHA256:
        check_script(path)
    dtype = dtype or torch.float32
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch would drop TorchScript, but the file is made of it
            layers = torch.jit.load(path, map_location="cpu").eval().layers
    except (RuntimeError, ValueError, AttributeError) as error:  # no TorchScript, or that of another network
        raise ModelError(f"{path}: not Inception as a TorchScript file with `layers`: {first_line(error)}") from error
    layers = layers.to(device, dtype, memory_format=torch.channels_last)

    def features(batch: np.ndarray) -> np.ndarray:  # (B, 299, 299, 3) float32 in [0, 255]
        with torch.inference_mode():
            x = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)  # BHWC => BCHW, as it lies: channels last
            found = layers(((x - 128) / 128).to(dtype)).flatten(1)
            return np.asarray(found.to(torch.float32).cpu())

    try:
        dim = features(np.zeros((1, INCEPTION_PX, INCEPTION_PX, 3), np.float32)).shape[1]
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: its `layers` take no images of {INCEPTION_PX} px") from error
    return FeatureNetwork(
        name="inception",
        title="Inception-v3",
        dim=dim,
        key={
            "network": "inception",
            "sha256": sha256,
            "preprocessing": "clean-fid clean: bicubic in float to 299x299, clipped to 0..255; (x - 128) / 128",
            **_unusual(dtype),
        },
        standard=sha256 == INCEPTION_SHA256 and dtype == torch.float32,
        licence="Apache-2.0",
        device=device,
        prepare=build_resizer("clean"),  # => (299, 299, 3) float32 in [0, 255]
        features=features,
    )


def _clip(weights: Path | None, device: "torch.device", dtype: "torch.dtype | None") -> FeatureNetwork:
    """Load CLIP's ViT-B/32 image tower; features are image embeddings of any length, as its `encode_image` gives."""
    encoder = load_encoder(CLIP, weights, device, dtype, "clip_weights")
    return FeatureNetwork(
        name="clip",
        title="CLIP ViT-B/32",
        dim=encoder.dim,
        key={
            "network": "clip",
            "fingerprint": encoder.fingerprint,
            "preprocessing": "clean-fid clip: bicubic in uint8 to a shorter side of 224, the centre 224x224; mean, std",
            **_unusual(dtype),
        },
        standard=(weights is None or file_sha256(weights) == CLIP_SHA256) and not _unusual(dtype),
        licence=encoder.spec.licence,
        device=device,
        prepare=_clip_crop,
        features=encoder.encode,
    )


def _clip_crop(image: np.ndarray) -> np.ndarray:
    """Cut what CLIP sees of an image: (H, W, 3) uint8 => (224, 224, 3) uint8."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    shrunk = resize(Image.fromarray(image), CLIP.input_px, InterpolationMode.BICUBIC)
    return np.asarray(center_crop(shrunk, CLIP.input_px))


@cache
def perceptual_network(device: "torch.device") -> "nn.Module":
    """Load the network of ST-LPIPS, VGG16, once. Raises NotApplicable without the package that carries it."""
    try:
        return load_perceptual("vgg").to(device)
    except InputError as error:
        raise NotApplicable(str(error)) from error


def _vgg16(device: "torch.device") -> FeatureNetwork:
    """Load VGG16; features are five layers, those of ST-LPIPS (Ghildyal & Liu 2022), each averaged over the image.

    Images of any size are seen pixel by pixel: what a resized image would lose, blur and fine texture, counts.
    """
    import torch

    network = perceptual_network(device)

    def features(batch: np.ndarray) -> np.ndarray:  # (B, H, W, 3) uint8
        parts = []
        with torch.inference_mode():
            for part in to_network(batch).split(VGG_BATCH):
                layers = network.net(network.scaling_layer(part.to(device)))
                parts.append(torch.cat([layer.mean((2, 3)) for layer in layers], 1).cpu())
        return np.asarray(torch.cat(parts))

    return FeatureNetwork(
        name="vgg16",
        title="VGG16",
        dim=sum(network.chns),
        key={
            "network": "vgg16",
            "weights": f"stlpips-pytorch {version('stlpips-pytorch')}, shift_tolerant",
            "preprocessing": "own pixels in -1..1; means of five layers",
        },
        standard=True,
        licence="BSD-2-Clause",
        device=device,
        prepare=lambda image: image,
        features=features,
    )


def _encoder(name: str, weights: Path | None, device: "torch.device", dtype: "torch.dtype | None") -> FeatureNetwork:
    """Load an encoder; features are embeddings at unit length, as conditioners see them, lest it outweigh direction."""
    encoder = load_encoder(name, weights, device, dtype)

    def features(batch: np.ndarray) -> np.ndarray:  # (B, H, W, 3) uint8
        embeddings = encoder.encode(batch)
        unit: np.ndarray = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return unit

    spec = encoder.spec
    own_directory = spec.source.startswith("local-dir:")  # whose path means nothing on another machine
    return FeatureNetwork(
        name=f"encoder:{name}",
        title=name,
        dim=encoder.dim,
        key={
            "network": f"encoder:{spec.architecture if own_directory else name}",
            "fingerprint": encoder.fingerprint,
            "preprocessing": f"bicubic with antialiasing to {spec.input_px}x{spec.input_px}; unit length",
            **_unusual(dtype),
        },
        standard=True,
        licence=spec.licence,
        device=encoder.device,
        prepare=lambda image: image,  # the device resizes
        features=features,
    )


def _unusual(dtype: "torch.dtype | None") -> dict[str, str]:
    """Return a precision other than fp32 that was asked for, as a part of the key."""
    import torch

    return {} if dtype in (None, torch.float32) else {"precision": str(dtype).removeprefix("torch.")}
