"""What grids show, as vectors that a prior can be asked for: of captions, or of the pictures themselves."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from largegen.embeddings.source import find_slide
from largegen.models.grid_prior import centred
from largegen.models.text import ClipEncoder, load_text_encoder
from largegen.sampling.windows import axis_starts
from largegen.training.grid_parts import GridPart

PICTURE_PX = 448  # side of a window's picture before the model resizes it
# What prompts may be about, so that what all texts share can be taken off their vectors.
PROMPTS = (
    *("a photo", "an image of tissue", "an aerial image", "glands", "fat", "many nuclei", "fibres", "blood vessels"),
    *("empty glass", "a tumour", "inflammation", "houses", "a road", "trees", "a field", "water"),
)


def caption_vectors(captions: Sequence[Sequence[str]], text_encoder: str) -> tuple[list[Tensor], Tensor, str]:
    """Embed the captions of each grid.

    Args:
        captions: Of each grid; there may be none.
        text_encoder: See models/text.py.

    Returns:
        Of each grid (n, V), centred; the mean (V,) that is taken off; and the licence of the encoder.

    Raises:
        InputError: For a caption that is too long, and where the encoder is not installed.
    """
    encoder = load_text_encoder(text_encoder)
    different = sorted({text for texts in captions for text in texts})
    vectors = dict(zip(different, encoder.texts(different), strict=True))
    mean = torch.stack([vectors[text] for texts in captions for text in texts]).mean(0)
    none = torch.zeros(0, len(mean))
    found = [centred(torch.stack([vectors[text] for text in texts]), mean) if texts else none for texts in captions]
    return found, mean, encoder.licence


def image_vectors(
    encoder: ClipEncoder, parts: Sequence[GridPart], window: int
) -> tuple[list[tuple[Tensor, np.ndarray]], Tensor]:
    """Embed the pictures of windows, every half window, whose vectors mean what those of texts do.

    Args:
        encoder: What looks at them.
        parts: Of the cohort.
        window: Side of a window, in tiles.

    Returns:
        Of each part (n, V), centred, and the first tiles (n, 2) of its windows; and the mean (V,) of prompts' vectors.

    Raises:
        InputError: For a slide that is not at hand.
    """
    seen = []
    for part in parts:
        s = part.file.settings
        sides = (
            len(range(first, side, part.step)) for first, side in zip((part.row, part.col), s.region[2:], strict=True)
        )
        rows, cols = (axis_starts(side, window, max(1, window // 2)) for side in sides)
        places = [(row, col) for row in rows for col in cols]
        downsample = window * s.tile_px * s.downsample / PICTURE_PX
        with find_slide(part.file, part.slides) as slide:
            pictures = [slide.read(*part.xy(*place), PICTURE_PX, PICTURE_PX, downsample) for place in places]
        seen.append((encoder.images(pictures), np.array(places)))
    mean = torch.cat([vectors for vectors, _ in seen]).mean(0)
    return [(centred(vectors, mean), places) for vectors, places in seen], encoder.texts(list(PROMPTS)).mean(0)
