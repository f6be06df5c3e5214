"""Masks: rectangles, images and polygons say which pixels are meant; what cannot be is refused in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from largegen.errors import InputError
from largegen.slides.mask import open_mask, outlines

SIZE = (120, 80)


def square(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def save(path, *geometries, features=True):
    """A GeoJSON file as QuPath exports annotations."""
    found = [{"type": "Feature", "properties": {"objectType": "annotation"}, "geometry": one} for one in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found} if features else geometries[0]))
    return str(path)


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def whole(mask):
    return mask.read(0, 0, *SIZE)


def test_a_rectangle():
    mask = open_mask("10, 20,30,40", SIZE)
    assert mask.bounds == (10, 20, 40, 60)
    assert whole(mask).sum() == 30 * 40 and whole(mask)[20, 10] and not whole(mask)[19, 10]
    part = mask.read(35, 55, 20, 20)  # sticks out of the mask
    assert part.sum() == 25 and part[:5, :5].all()
    assert not mask.read(-50, -50, 20, 20).any()


def test_an_image_of_any_grey(tmp_path):
    grey = np.zeros((80, 120), np.uint8)
    grey[5:9, 7:10], grey[30, 100] = 255, 3
    Image.fromarray(grey).save(tmp_path / "m.png")
    mask = open_mask(str(tmp_path / "m.png"), SIZE)
    assert mask.bounds == (7, 5, 101, 31) and np.array_equal(whole(mask), grey > 0)
    assert np.array_equal(mask.read(6, 4, 10, 40), grey[4:44, 6:16] > 0)


@pytest.mark.parametrize("features", [True, False])
def test_polygons_with_holes(tmp_path, features):
    path = save(tmp_path / "m.geojson", polygon(square(10, 10, 50, 40), square(20, 20, 30, 30)), features=features)
    mask = open_mask(path, SIZE)
    found = whole(mask)
    assert mask.bounds == (10, 10, 50, 40) and found.sum() == 40 * 30 - 100
    assert not found[25, 25] and found[15, 15] and np.array_equal(mask.read(18, 18, 9, 9), found[18:27, 18:27])


def test_several_shapes(tmp_path):
    several = {"type": "MultiPolygon", "coordinates": [[square(0, 0, 4, 4)], [square(50, 50, 60, 60)]]}
    mask = open_mask(save(tmp_path / "m.json", several, polygon(square(100, 70, 120, 80))), SIZE)
    assert whole(mask).sum() == 16 + 100 + 200


def whole_of_one(folder, feature):
    (folder / "one.geojson").write_text(json.dumps(feature))
    return whole(open_mask(str(folder / "one.geojson"), SIZE))


def test_outlines_are_a_mask_again(tmp_path):
    found = np.zeros((30, 40), bool)
    found[3:20, 5:30], found[8:12, 9:15] = True, False
    classes = found.astype(np.uint8)
    classes[25:] = 2
    features = outlines([classes[:7], classes[7:]], (30, 40), (60, 40), ("made", "blended"))
    assert [one["properties"]["classification"]["name"] for one in features] == ["made", "blended"]
    assert whole_of_one(tmp_path, features[1])[65:70, 60:100].sum() == 200
    del features[1]
    (tmp_path / "m.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    again = whole(open_mask(str(tmp_path / "m.geojson"), SIZE))
    assert np.array_equal(again[40:70, 60:100], found) and again.sum() == found.sum()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("1,2,3", "give X,Y,W,H, or a PNG or GeoJSON file"),
        ("0,0,0,10", "is empty"),
        ("100,0,30,10", "leaves the image of 120x80 px"),
        ("-1,0,30,10", "leaves the image"),
        (polygon(square(0, 0, 500, 9)), "leaves the image"),
        (polygon([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]), "crosses itself near"),
        (polygon([[0, 0], [5, 5], [0, 0]]), "a polygon of 3 corners"),
        (polygon(square(5.1, 5.1, 5.2, 5.2)), "hold no pixel's centre"),
        ({"type": "Point", "coordinates": [1, 2]}, "Point is no polygon"),
        ({"type": "Polygon"}, "not readable as polygons"),
    ],
)
def test_what_cannot_be(tmp_path, given, text):
    with pytest.raises(InputError, match=text):
        open_mask(given if isinstance(given, str) else save(tmp_path / "m.geojson", given), SIZE)


def test_images_that_cannot_be(tmp_path):
    path = tmp_path / "m.png"
    Image.new("L", (12, 8), 255).save(path)
    with pytest.raises(InputError, match="12x8 px, but the image has 120x80"):
        open_mask(str(path), SIZE)
    Image.new("L", SIZE).save(path)
    with pytest.raises(InputError, match="is empty: all of it is black"):
        open_mask(str(path), SIZE)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="not readable as an image"):
        open_mask(str(path), SIZE)
