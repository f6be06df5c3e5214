"""What a scene shows of each kind of file, and what it makes of records that are none of this tool's."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.embeddings import embed
from helpers.models import save_encoder
from helpers.views import made_after
from PIL import Image

from largegen.errors import InputError
from largegen.slides.by_products import made_path
from largegen.slides.mask import outlines
from largegen.slides.slide import open_slide
from largegen.view.layers import EncoderChoice
from largegen.view.pages import scene_page
from largegen.view.scene import open_scene


def keys(scene) -> list[str]:
    return [overlay.key for overlay in scene.overlays]


def image_of(data: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image"].partition(",")[2]))))


def test_a_slide_has_its_grid_its_tissue_and_its_tiles(slide_path):
    scene = open_scene(slide_path)
    assert keys(scene) == ["grid", "mask", "kept"] and scene.pictures[0].role == "slide"
    grid = scene.overlay("grid").data()
    assert (grid["cols"], grid["rows"], grid["side"], grid["step"]) == (5, 3, 256, 256)
    kept = scene.overlay("kept").data()
    assert image_of(kept).shape == (3, 5) and kept["box"] == (0, 0, 1280, 768) and kept["legend"] == "13 of 15 kept"
    mask = scene.overlay("mask").data()
    assert mask["box"] == (0, 0, 1300, 1000) and image_of(mask)[500, 650] and not image_of(mask)[3, 3]


def test_a_reference_lies_where_the_record_says(slide_path, tmp_path):
    """At half the reference's resolution, a picture of the plane is two px of the reference."""
    path = made_after(slide_path, tmp_path / "half.tif", (256, 128), (512, 256), downsample=2.0)
    scene = open_scene(path, slide_path)
    assert scene.pictures[1].box == (-128, -64, 650, 500)
    mask = scene.overlay("reference-mask").data()
    assert mask["box"] == (-128, -64, 650, 500)
    kept = scene.overlay("reference-kept").data()
    assert kept["box"] == (-128, -64, 512, 256)


def test_of_a_reference_only_what_lies_under_the_image(result_path, slide_path):
    picture = open_scene(result_path, slide_path, only_under=True).pictures[1]
    assert (picture.width, picture.height, picture.xy, picture.box) == (768, 512, (256, 128), (0, 0, 768, 512))


def test_seams_are_those_that_eval_measures(scene):
    """Windows every half tile: their borders."""
    data = scene.overlay("seams").data()
    assert data["rows"] == [128, 256, 384] and data["cols"] == [128, 256, 384, 512, 640]


def test_similarity_is_that_of_the_metric(slide_path, tmp_path):
    encoder = EncoderChoice(f"local-dir:{save_encoder(tmp_path / 'encoder')}")
    same = made_after(slide_path, tmp_path / "same.tif", mirrored=False, size=(512, 256), downsample=1.0)
    data = open_scene(same, slide_path, encoder=encoder).overlay("similarity").data()
    assert data["box"] == (0, 0, 512, 256) and image_of(data).shape == (1, 2)
    assert data["low"] > 0.999 and data["legend"].startswith("mean 1.000")


def test_an_encoder_that_a_file_names_is_not_loaded(slide_path, tmp_path):
    path = made_after(slide_path, tmp_path / "a.tif", encoder="hf-hub:evil/weights")
    assert open_scene(path, slide_path).overlay("similarity").make.args[2] == EncoderChoice("starter")


def test_an_embedding_file_lies_over_its_slide(slide_path, tmp_path):
    with open_slide(slide_path) as slide:
        file = embed(slide, tmp_path)
    scene = open_scene(file)
    assert keys(scene) == ["grid", "kept", "colours"] and scene.pictures[0].width == 1300
    assert image_of(scene.overlay("colours").data()).shape == (10, 13, 3)


def test_embeddings_without_their_slide_are_a_picture(slide_path, tmp_path, caplog):
    caplog.set_level("INFO")
    copy = tmp_path / "moved" / "slide.tif"
    copy.parent.mkdir()
    copy.write_bytes(slide_path.read_bytes())
    with open_slide(copy) as slide:
        file = embed(slide, tmp_path)
    copy.unlink()
    scene = open_scene(file)
    assert "its embeddings are shown alone" in caplog.text
    assert scene.pictures[0].role == "embeddings" and (scene.pictures[0].width, scene.pictures[0].height) == (
        1300,
        1000,
    )
    found = np.asarray(Image.open(io.BytesIO(scene.pictures[0].tile(3, 2, 2))))
    assert found.std() > 5


def test_a_scene_of_the_earth(scene_path):
    scene = open_scene(scene_path)
    assert scene.scale.unit == "m" and scene.overlay("mask").name == "Data"


def test_a_reference_of_which_nothing_is_known_is_laid_on_the_corner(slide_path, make_slide, caplog):
    scene = open_scene(slide_path, make_slide(700, 600))
    assert scene.pictures[1].box == (0, 0, 700, 600) and "corner on corner" in caplog.text


def test_levels_that_are_not_there_are_said_to_be_missing(slide_path, tmp_path):
    made = made_after(slide_path, tmp_path / "a.tif", guide=True)
    (tmp_path / "a_10x.png").unlink()
    with pytest.raises(InputError, match="no levels lie beside it"):
        open_scene(made, levels=True)


HOSTILE = '</script><img src=x onerror="alert(1)">'


def test_hostile_text_is_text(slide_path, tmp_path):
    made = made_after(slide_path, tmp_path / "a.tif", command=HOSTILE, model=HOSTILE, sampling={HOSTILE: HOSTILE})
    scene = replace(open_scene(made), title=HOSTILE)
    page = scene_page(scene, "", "0/")
    assert "<img" not in page and page.count("</script>") == 3
    data = json.loads(page.split('id="scene">')[1].split("</script>")[0])
    assert dict(dict(data["pictures"][0]["facts"])["Made by"])["command"] == HOSTILE


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile_px": 0},
        {"tile_px": "many"},
        {"tile_px": 16, "latent_px": 0},
        {"reference_xy": ["a", None]},
        {"reference_xy": 7},
        {"reference_downsample": 0},
        {"sampling": [1, 2]},
        {"sampling": {"steps": 10**9, "windows": "shift"}},
        {"zoom": 3},
        {"level": "high"},
        {"versions": {"a": {"b": ["c"] * 10**4}}},
    ],
)
def test_a_record_that_makes_no_sense_costs_no_more_than_its_layers(wrong, slide_path, tmp_path):
    made = made_after(slide_path, tmp_path / "a.tif", (0, 0), (256, 256), **wrong)
    scene = open_scene(made, slide_path)
    for key in ("grid", "seams"):
        if overlay := scene.overlay(key):
            assert overlay.data()
    assert len(scene_page(scene, "", "")) < 10**5
    assert scene.pictures[0].tile(0, 0, 0)


def test_the_edited_part_is_outlined(slide_path, tmp_path):
    made = made_after(slide_path, tmp_path / "a.tif", edit={"made_px": 100})
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:30] = True
    mask[12:15, 12:15] = False
    features = outlines([mask.astype(np.uint8)], (30, 40), (100, 200), ("made by largegen",))
    made_path(made).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    data = open_scene(made).overlay("edited").data()
    (shape,) = data["shapes"]
    assert [len(ring) for ring in shape["rings"]] == [5, 5] and min(shape["rings"][0]) == (110, 210)
    made_path(made).write_text('{"features": [{"geometry": {"type": "Point", "coordinates": 3}}]}')
    assert "not readable" in open_scene(made).overlay("edited").data()["error"]
