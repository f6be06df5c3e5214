"""Sheets of images."""

import numpy as np
from PIL import Image

from largegen.images.contact_sheet import contact_sheet, lay_out


def test_images_are_laid_out_row_by_row(tmp_path):

    images = np.stack([np.full((2, 3, 3), 50 * n, np.uint8) for n in range(4)])
    sheet = lay_out(images, 2, gap_px=1)
    contact_sheet(images, 2, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), lay_out(images, 2))
    assert sheet.shape == (5, 7, 3)
    assert [sheet[y, x, 0] for y in (0, 3) for x in (0, 4)] == [0, 50, 100, 150]
    assert (sheet[2] == 255).all() and (sheet[:, 3] == 255).all()
