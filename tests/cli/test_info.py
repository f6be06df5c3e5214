"""`largegen info` and `largegen encoders`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.commands import assert_one_line

from largegen.cli import run
from largegen.models.directory import BUNDLED


def test_encoders_lists_width_and_licence(capfd):
    assert run(["encoders"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["uni_v1", "1024"] and "CC-BY-NC-ND-4.0" in line for line in lines)
    assert run(["encoders", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capfd.readouterr().out)["encoders"]}
    assert listed["uni_v2"]["width"] == 1536 and listed["phikon"]["page"].endswith("owkin/phikon")
    assert {"hipt_vit256", "ctranspath"} <= set(listed)


def info(capfd, *arguments) -> dict:
    capfd.readouterr()
    assert run(["info", *map(str, arguments), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert run(["info", *map(str, arguments)]) == 0
    text = capfd.readouterr().out
    assert all(f"{key}:" in text for key in found)
    return found


def test_info_of_a_slide(capfd, slide_path, make_slide):
    found = info(capfd, slide_path)
    assert (found["what"], found["width"], found["height"], found["mpp"]) == ("slide", 1300, 1000, 0.5)
    assert found["missing"] == ["magnification"] and found["levels"][0] == "1300x1000"
    bare = info(capfd, make_slide(600, 600, mpp=None, name="bare.svs"))
    assert bare["missing"] == ["mpp", "magnification"]


def test_info_of_a_scene(capfd, scene_path):
    found = info(capfd, scene_path)
    assert (found["what"], found["crs"], found["gsd_m"]) == ("scene", "EPSG:26914", 5.0)


def test_info_of_an_embedding_file(capfd, embed, slide_path, tmp_path):
    embed(slide_path)
    found = info(capfd, tmp_path / "out" / "slide.h5")
    assert found["what"] == "embedding file" and found["complete"] is True
    assert found["encoder_licence"] == "CC-BY-4.0" and found["width"] == 16


def test_info_of_an_encoder(capfd, encoder):
    found = info(capfd, encoder.removeprefix("local-dir:"))
    assert (found["what"], found["width"], found["licence"]) == ("encoder", 16, "CC-BY-4.0")


def test_info_of_what_other_trainings_leave(capfd, encoder, tmp_path):
    from largegen.training.config import AUTOENCODER_PRESETS
    from largegen.training.tasks.autoencoder import build_autoencoder

    runs = tmp_path / "encoder", tmp_path / "vae"
    shutil.copytree(encoder.removeprefix("local-dir:"), runs[0] / "model")
    build_autoencoder(AUTOENCODER_PRESETS["tiny"]).save_pretrained(runs[1] / "model" / "vae")
    for folder in runs:
        (folder / "config.json").write_text('{"steps": 1}')  # the run's own
    found = info(capfd, runs[0])
    assert (found["what"], found["width"], found["licence"]) == ("encoder", 16, "CC-BY-4.0")
    for path in (runs[1], runs[1] / "model", runs[1] / "model" / "vae"):
        found = info(capfd, path)
        assert (found["what"], found["class"]) == ("autoencoder", "ResidualAutoencoder")
        assert (found["factor"], found["channels"]) == (8, 4) and found["weights_mb"] > 0


def test_info_of_a_generated_image(capfd, tmp_path):
    from largegen.images.write import write_image
    from largegen.slides.image_info import ImageInfo

    pixels = np.full((300, 400, 3), 200, np.uint8)
    about = ImageInfo(400, 300, 0.5, None, None, "synthetic", {"seed": 3, "encoder_licence": "Apache-2.0"})
    for name in ("made.tif", "made.png"):
        write_image(tmp_path / name, iter([(0, pixels)]), about)
        found = info(capfd, tmp_path / name)
        assert found["what"] == "generated image" and found["width"] == 400
        assert "Apache-2.0" in json.dumps(found["provenance"])


def test_info_of_a_model(capfd, tmp_path):
    index = {"_class_name": "LargegenModel", "unet": "UNet2DConditionModel", "info": {"licence": "CC0-1.0"}}
    for folder in (tmp_path / "model", tmp_path / "run" / "model"):
        (folder / "unet").mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps(index))
        safetensors.torch.save_file({"w": torch.zeros(250_000)}, folder / "unet" / "w.safetensors")
    for path in (tmp_path / "model", tmp_path / "run"):
        found = info(capfd, path)
        assert (found["what"], found["licence"], found["weights_mb"]) == ("model", "CC0-1.0", 1.0)
        assert found["parts"] == {"unet": "UNet2DConditionModel"}
    (tmp_path / "model" / "unet").rename(tmp_path / "elsewhere")
    assert run(["info", str(tmp_path / "model")]) == 2
    assert_one_line(capfd.readouterr().err, "unet/ is missing")


def test_info_of_a_name_is_that_of_the_model(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = info(capfd, "starter")
    assert (found["what"], found["name"]) == ("model", "tissue") and Path(found["path"]) == BUNDLED["starter"]
    (tmp_path / "starter").mkdir()  # `--model starter` is the bundled one all the same
    assert info(capfd, "starter") == found


@pytest.mark.parametrize("name", ["text.txt", "text.svs", "cut.h5", "folder", "absent"])
def test_info_of_anything_else_is_one_line(capfd, tmp_path, name):
    if name == "folder":
        (tmp_path / name).mkdir()
    elif name != "absent":
        (tmp_path / name).write_text("nothing of ours")
    assert run(["info", str(tmp_path / name)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert_one_line(err, name)
