"""A GeoTIFF of ours is a cloud-optimized one, with the same tiles."""

import numpy as np
import pytest
import rasterio
import tifffile
from helpers.slides import tissue_like

from largegen.images import write as writers
from largegen.images.write import write_image
from largegen.slides.image_info import Georeference, ImageInfo
from largegen.slides.slide import open_slide

PLACE = (2.0, 0.0, 500000.0, 0.0, -2.0, 4600000.0)


@pytest.mark.parametrize("bigtiff_from", [2**31, 1])
@pytest.mark.parametrize("crs", ["EPSG:32614", ""])
@pytest.mark.parametrize("size", [(1600, 1100), (200, 130)])
def test_a_scene_is_a_cloud_optimized_geotiff(tmp_path, monkeypatch, bigtiff_from, crs, size):
    monkeypatch.setattr(writers, "CLASSIC_TIFF_BYTES", bigtiff_from)
    pixels, path = tissue_like(*size), tmp_path / "a.tif"
    write_image(path, [(0, pixels)], ImageInfo(*size, gsd_m=2.0, georeference=Georeference(crs, PLACE)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tif", "a.tif.json"]
    with tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        assert tiff.is_bigtiff == (bigtiff_from == 1)
        tags = [page.offset for page in pages]
        tiles = [page.dataoffsets[0] for page in reversed(pages)]
        assert tags[0] < 300 and [*tags, *tiles] == sorted([*tags, *tiles])
        assert tiles[-1] + sum(pages[0].databytecounts) == path.stat().st_size
    with rasterio.open(path) as scene:
        assert tuple(scene.transform)[:6] == PLACE and (scene.crs is None) == (crs == "")
        assert len(scene.overviews(1)) == len(pages) - 1 == (3 if size[0] > 256 else 0)
        assert np.abs(scene.read().transpose(1, 2, 0) - pixels.astype(int)).mean() < 4
    slide = open_slide(path)
    assert slide.kind == "scene" and slide.gsd_m == 2.0 and slide.provenance["width"] == size[0]
    cogeo = pytest.importorskip("rio_cogeo.cogeo")
    assert cogeo.cog_validate(path, strict=True)[:2] == (True, [])
