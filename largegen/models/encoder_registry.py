"""The encoders known by name.

To add one, add an entry to ENCODERS: commands, `largegen encoders` and the documentation take it from there. A network
that timm lacks is built in a file of its own (see ctranspath.py), and weights under other names than timm's are renamed
in timm_weights.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from largegen.runtime.hub import page_of
from largegen.runtime.setting import Setting

ENCODER_HELP = "A name from `largegen encoders`, a timm model name, hf-hub:ORG/NAME or local-dir:DIR."
ENCODER_WEIGHTS = Setting(
    "Encoder weights from a .safetensors, .pth or .bin file, to work offline or if no hub has them."
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NON_COMMERCIAL_OWKIN = "Owkin non-commercial licence"


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is and needs."""

    name: str  # as given on the command line
    dim: int  # D of an embedding
    precision: str  # fp32, fp16 or bf16: what the network computes in on an accelerator; on a CPU it is fp32
    licence: str  # travels with every embedding, model and image made from it
    page: str  # where to read about it and accept its terms
    source: str  # hf-hub:ORG/NAME, local-dir:DIR, or file:NAME where only the page has the weights
    architecture: str  # timm's name of the network
    timm_kwargs: Mapping[str, Any] = field(default_factory=dict)  # what timm.create_model takes beside it
    input_px: int = 224  # side of the square image that the network sees
    mean: tuple[float, float, float] = IMAGENET_MEAN  # subtracted from RGB in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # and divided by
    dino_positions: bool = False  # positions are brought to input_px in DINO's way, which is not timm's


ENCODERS = (
    EncoderSpec(
        name="uni_v1",
        dim=1024,
        precision="fp16",
        licence="CC-BY-NC-ND-4.0",
        page=page_of("MahmoodLab/UNI"),
        source="hf-hub:MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        timm_kwargs={"init_values": 1e-5, "dynamic_img_size": True},
    ),
    EncoderSpec(
        name="uni_v2",
        dim=1536,
        precision="bf16",
        licence="CC-BY-NC-ND-4.0",
        page=page_of("MahmoodLab/UNI2-h"),
        source="hf-hub:MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        timm_kwargs={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "silu",
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
    ),
    EncoderSpec(
        name="dinov2_vitl14_reg",
        dim=1024,
        precision="fp16",
        licence="Apache-2.0",
        page=page_of("timm/vit_large_patch14_reg4_dinov2.lvd142m"),
        source="hf-hub:timm/vit_large_patch14_reg4_dinov2.lvd142m",
        architecture="vit_large_patch14_reg4_dinov2",
        # trained at 518 px: positions are resampled in the network, the weights stay as published
        timm_kwargs={"dynamic_img_size": True},
    ),
    EncoderSpec(
        name="phikon",
        dim=768,
        precision="fp32",
        licence=NON_COMMERCIAL_OWKIN,
        page=page_of("owkin/phikon"),
        source="hf-hub:owkin/phikon",
        architecture="vit_base_patch16_224",
    ),
    EncoderSpec(
        name="hipt_vit256",
        dim=384,
        precision="fp32",
        licence="Apache-2.0 with Commons Clause",
        page="https://github.com/mahmoodlab/HIPT",
        source="file:vit256_small_dino.pth",
        architecture="vit_small_patch16_224",
        timm_kwargs={"img_size": 256},
        input_px=256,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        dino_positions=True,  # pretrained at 224 px
    ),
    EncoderSpec(
        name="ctranspath",
        dim=768,
        precision="fp32",
        licence="GPL-3.0, for non-commercial academic purposes",
        page="https://github.com/Xiyue-Wang/TransPath",
        source="file:ctranspath.pth",
        architecture="swin_tiny_patch4_window7_224",
        timm_kwargs={"embed_layer": "ConvStem"},
    ),
)
REGISTRY: Mapping[str, EncoderSpec] = MappingProxyType({spec.name: spec for spec in ENCODERS})
