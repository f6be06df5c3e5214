"""A small image and its record, written in bands and read again."""

from itertools import pairwise

import numpy as np

from largegen.images.write import write_image

WIDTH, HEIGHT = 700, 530
ALL = ("out.tif", "out.ome.tif", "out.dzi", "out.png", "out.jpg")
PROVENANCE = {"command": "generate --ref 'a & b (é) \"c\".svs' <x>", "seed": 7, "licence": "CC-BY-NC-ND-4.0"}


def noise(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8 that no format makes much smaller."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_bands(image, edges=(0, 100, 101, 357, HEIGHT)):
    for top, bottom in pairwise(edges):
        yield top, image[top:bottom]


def write(path, image, info, **options):
    write_image(path, in_bands(image), info, **options)
    return path


def levels_apart(a, b) -> int:
    """The largest difference of two images in grey levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def pixels(path):
    import pyvips

    return pyvips.Image.new_from_file(str(path)).numpy()
