"""Which bundled model suits a reference."""

import pytest
from helpers.embeddings import embed

from largegen.conditioning.open_reference import ReferenceOptions
from largegen.errors import InputError
from largegen.slides.slide import open_slide


def test_a_slide_takes_the_tissue_model_and_a_scene_the_aerial_one(make_slide, scene_path):
    assert ReferenceOptions(ref=make_slide(300, 200)).choose_model("auto") == "tissue"
    assert ReferenceOptions(ref=scene_path).choose_model("auto") == "aerial"


def test_embeddings_are_of_a_slide_or_a_scene(make_slide, scene_path, tmp_path):
    for path, model in ((make_slide(300, 200), "tissue"), (scene_path, "aerial")):
        with open_slide(path) as slide:
            made = embed(slide, tmp_path, tissue_filter=False, mag=None)
        assert ReferenceOptions(embeddings=made).choose_model("auto") == model


def test_a_model_that_is_named_is_taken_unseen(tmp_path):
    assert ReferenceOptions(ref=tmp_path / "none.svs").choose_model("starter") == "starter"
    with pytest.raises(InputError):
        ReferenceOptions(ref=tmp_path / "none.svs").choose_model("auto")
