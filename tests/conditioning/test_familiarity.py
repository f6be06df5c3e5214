"""A model says when a reference is unlike what it was trained on."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.models import WIDTH, flat_grid, save_encoder, save_model

from largegen.conditioning.familiarity import count_unlike, differences
from largegen.models.info import TrainingSlide
from largegen.models.known_embeddings import know_embeddings
from largegen.models.model import load_model


@pytest.fixture
def model(tmp_path):
    model = load_model(save_model(tmp_path / "model", save_encoder(tmp_path / "encoder"), levels=2), "cpu", "fp32")
    generator = torch.Generator().manual_seed(1)
    model.known = know_embeddings(torch.randn(2000, WIDTH, generator=generator) + 3)
    return model


def like(model, **changes):
    features = np.random.default_rng(2).normal(3, 1, (4, 4, WIDTH)).astype(np.float32)
    return flat_grid(model, 4, 4, **{"features": features, **changes})


def test_silent_about_what_it_knows(model, caplog):
    assert count_unlike(model, like(model)) == 0
    assert not caplog.records


def test_speaks_of_embeddings_unlike_any(model, caplog):
    grid = like(model, features=np.full((4, 4, WIDTH), -3.0, np.float32))
    assert count_unlike(model, grid) == 16
    assert "16 of its 16 tiles are unlike all that model tiny was trained on: the image may not" in caplog.text


def test_tiles_without_tissue_do_not_count(model):
    features = np.array(like(model).features)
    features[0] = -3
    assert count_unlike(model, like(model, features=features)) == 4
    tissue = np.ones((4, 4), bool)
    tissue[0] = False
    assert count_unlike(model, like(model, features=features, tissue=tissue)) == 0


def test_names_another_kind(model, caplog):
    grid = like(model)
    scene = like(model, source=replace(grid.source, kind="scene", mpp=None, gsd_m=0.13))
    with caplog.at_level(logging.WARNING):
        count_unlike(model, scene)
    assert "(a scene, and it knows slides only)" in caplog.text
    dark = like(model, source=replace(grid.source, background=(3, 2, 9)))
    assert differences(model, dark) == ["dark around the tissue, as fluorescence is"]
    model.info = replace(model.info, trained_on=(TrainingSlide("town", gsd_m=0.13),))
    assert differences(model, grid) == ["a slide, and it knows scenes only"]
    assert differences(model, scene) == []


def test_a_model_without_statistics_says_nothing(model, caplog):
    model.known = None
    assert count_unlike(model, like(model, features=np.full((4, 4, WIDTH), -3.0, np.float32))) is None
    assert not caplog.records


def test_statistics_travel_with_the_model(model, tmp_path):
    model.save(tmp_path / "again")
    known = load_model(tmp_path / "again", "cpu", "fp32").known
    assert torch.equal(known.mean, model.known.mean) and torch.equal(known.limit, model.known.limit)
