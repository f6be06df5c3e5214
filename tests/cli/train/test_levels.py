"""`largegen train` at several magnifications."""

import numpy as np
import pytest
from helpers.training_commands import fails, words
from PIL import Image

from largegen.cli import run
from largegen.models.model import load_model
from largegen.training.log import read_metrics


def test_train_at_several_levels(train, short, tmp_path, caplog):
    zooming = words("--conditioner summarizer --levels 3 --init-from", short)
    with caplog.at_level("INFO"):
        assert run(train("--out", tmp_path / "zoom", *zooming)) == 0
    assert "another kind of conditioner" in caplog.text
    assert "level 0 (20x): " in caplog.text and "level 2 (5x): " in caplog.text
    model = load_model(tmp_path / "zoom", "cpu")
    assert model.levels == 3 and type(model.conditioner).__name__ == "Summarizer"
    last = read_metrics(tmp_path / "zoom" / "metrics.jsonl")[-1]
    levels = [last[name] for name in last if name.startswith("validation_loss_level_")]
    assert last["validation_loss"] == pytest.approx(np.mean(levels)) and len(set(levels)) == len(levels) >= 2
    sheet = np.asarray(Image.open(tmp_path / "zoom" / "samples" / "step-000004.png"))
    assert sheet.shape[0] == 6 * 64 + 5 * 4  # two rows for each level


def test_levels_of_a_scene_are_counted_from_its_own_resolution(train, encoder, scene_path, tmp_path, caplog):
    command = words("embed", scene_path, "--out", tmp_path / "scenes", "--encoder", f"local-dir:{encoder / 'model'}")
    assert run([*command, *words("--tile-px 64 --overlap 48 --device cpu -q")]) == 0
    zooming = words("--conditioner summarizer --levels 2 --steps 1 --validation 0")
    arguments = train("--out", tmp_path / "zoom", *zooming)
    arguments[1] = str(tmp_path / "scenes")
    with caplog.at_level("INFO"):
        assert run(arguments) == 0
    assert "level 0 (1x): " in caplog.text and "level 1 (2x): " in caplog.text
    assert load_model(tmp_path / "zoom", "cpu").level_names == ["1x", "2x"]


def test_several_levels_need_the_summarizer(train, tmp_path, capsys):
    fails(capsys, train("--out", tmp_path / "a", "--levels", "3"), 2, "use --conditioner summarizer")


def test_a_slide_too_small_for_a_level(train, tmp_path, capsys):
    zooming = words("--conditioner summarizer --levels 8 --validation 0")
    fails(capsys, train("--out", tmp_path / "a", *zooming), 2, "to train on: the slides are too small")
