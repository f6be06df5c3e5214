"""The images that variations are made of and compared with: embedded once each, and read as tiles."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from largegen.augmenting.items import Item
from largegen.conditioning.open_reference import own_resolution
from largegen.conditioning.suitable import encoder_of
from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.options import EmbedOptions
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.slides.resolution import UNKNOWN, Resolution
from largegen.slides.slide import open_slide

ORIGINALS = "originals"
HELD_OUT = "held-out"


class Originals:
    """Embeds images with a model's encoder, into `<folder>/originals` and, what is never varied, `<folder>/held-out`.

    Args:
        model: Whose encoder, tiles and resolution.
        folder: Of the embedding files.
        held_out: What is never varied; names may occur twice.
        source: Resolution of the images, where their metadata lack it.
        target: Resolution to work at; unknown: the model's own.
        encoder_weights: File of the encoder's weights, where no hub has them.
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        held_out: Sequence[Item] = (),
        *,
        source: Resolution = UNKNOWN,
        target: Resolution = UNKNOWN,
        encoder_weights: Path | None = None,
    ) -> None:
        self.model, self.folder, self.source, self.target = model, folder, source, target
        self._weights = encoder_weights
        self._files: dict[Path, EmbeddingFile] = {}
        self._folders: dict[Path, Path] = {}
        seen: Counter[str] = Counter()
        for item in held_out:
            again = seen[item.name]
            self._folders[item.path] = folder / HELD_OUT / (str(again) if again else "")
            seen[item.name] += 1

    @cached_property
    def encoder(self) -> Encoder:
        """The model's."""
        return load_encoder(encoder_of(self.model), self._weights, self.model.device)

    def file(self, item: Item) -> EmbeddingFile:
        """Embed an image, or find its embeddings from before."""
        if item.path not in self._files:
            self._files[item.path] = EmbeddingFile(self._embed(item))
        return self._files[item.path]

    def _embed(self, item: Item) -> Path:
        with open_slide(item.path, *self.source) as slide:
            target = own_resolution(self.model, slide, self.target)
            return embed_slide(
                slide,
                self.encoder,
                self._folders.get(item.path, self.folder / ORIGINALS),
                EmbedOptions(tile_px=self.model.tile_px, tissue_filter=slide.kind != "image"),
                downsample=target.downsample(slide),
                mag=target.magnification(slide),
                wait=True,
                progress=False,
            )

    def tiles(self, item: Item, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read tiles of an image, by their numbers in its embedding file: (N, H, W, 3) uint8."""
        return read_tiles(item.path, self.file(item), numbers, self.source)


def read_tiles(
    image: Path, file: EmbeddingFile, numbers: Sequence[int] | np.ndarray, source: Resolution = UNKNOWN
) -> np.ndarray:
    """Read tiles of an image: (N, H, W, 3) uint8.

    Args:
        image: The image.
        file: Its embeddings, which say where tiles are.
        numbers: Of the tiles in that file.
        source: Resolution of the image, where its metadata lack it.
    """
    coords, s = file.coords()[numbers], file.settings
    with open_slide(image, *source) as slide:
        return np.stack([slide.read(int(x), int(y), s.tile_px, s.tile_px, s.downsample) for x, y in coords])


def evenly(count: int, most: int) -> np.ndarray:
    """Choose up to `most` of `count` numbers, evenly, or the one in the middle: (N,) int."""
    few = min(most, count)
    return ((np.arange(few) + 0.5) * count / max(few, 1)).astype(int)
