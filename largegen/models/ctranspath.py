"""The convolutional stem that CTransPath puts before a Swin transformer."""

from itertools import pairwise
from typing import Any

from timm.layers import PatchEmbed
from torch import nn


class ConvStem(PatchEmbed):
    """Tokens of 4 x 4 pixels: (B, 3, H, W) => (B, H / 4, W / 4, embed_dim).

    Two convolutions of 3 x 3 halve the image, one of 1 x 1 gives the tokens their channels. CTransPath: Wang et al.,
    "Transformer-based unsupervised contrastive learning for histopathological image classification", Medical Image
    Analysis 81 (2022). The names of its weights are those of the published checkpoint.
    """

    def __init__(self, in_chans: int = 3, embed_dim: int = 96, **options: Any):
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **options)
        layers: list[nn.Module] = []
        for before, after in pairwise((in_chans, embed_dim // 8, embed_dim // 4)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, 1))
