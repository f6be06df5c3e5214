"""What images say of their making, written and read."""

import json

import pytest
from helpers.models import flat_grid, save_encoder, save_model

from largegen import load_model
from largegen.conditioning.area import ImageArea
from largegen.images.provenance import Provenance, image_info
from largegen.sampling.settings import Sampling, Zooming

# As version 0.1.0 wrote it. Images of people have it, so it is read for ever.
RECORD = """{
 "generated_by": "largegen 0.1.0",
 "description": "synthetic image by largegen 0.1.0, after slide",
 "width": 1024, "height": 512, "mpp": 0.5,
 "command": "largegen generate --ref slide.svs --size 1024x512",
 "model": "starter", "model_licence": "Apache-2.0",
 "encoder": "starter", "encoder_licence": "Apache-2.0", "licence": "Apache-2.0",
 "reference": "slide", "reference_xy": [2048, 4096], "reference_downsample": 2.0,
 "tile_px": 256, "latent_px": 8, "seed": 7,
 "sampling": {
  "steps": 50, "guidance": 4.0, "eta": 0.0, "scheduler": "ddim", "windows": "shift", "stride": 0,
  "decode_stride": 16, "decode_margin": 4, "batch_size": 8
 },
 "precision": "float32",
 "versions": {"largegen": "0.1.0", "torch": "2.9.0", "diffusers": "0.35.1"}
}"""
NOT_MAKING = {"generated_by", "description", "width", "height", "mpp"}  # of the image, not of what made it


def test_a_record_is_read_and_written_unchanged():
    record = json.loads(RECORD)
    made_by = Provenance.read(record)
    assert made_by.reference_xy == (2048, 4096) and made_by.seed == 7 and made_by.zoom is None and made_by.level is None
    assert made_by.record() == {name: value for name, value in record.items() if name not in NOT_MAKING}
    assert Provenance.read(made_by.record()) == made_by
    decoding = {"decode_stride": 16, "decode_margin": 4}
    ways = {"steps": 50, "scheduler": "ddim", "windows": "shift", "distilled": False}
    assert made_by.settings() == Sampling(guidance=4.0, **ways, **decoding, batch_size=8, seed=7)


@pytest.mark.parametrize(
    "more",
    [
        {"zoom": Zooming().as_dict()},
        {"zoom": Zooming().as_dict(), "level": 2, "guide": False},
        {"level": 0, "magnification": "20x", "patches": 16},
    ],
)
def test_records_of_zoom_its_guide_and_sheets(more):
    record = json.loads(RECORD) | more
    assert Provenance.read(record).record().items() >= more.items()


def test_keys_of_other_versions_are_left_out():
    assert Provenance.read({"seed": 1, "of_a_later_version": 2}) == Provenance(seed=1)
    assert Provenance.read({}).record() == {}


def test_an_image_has_all_of_it(tmp_path):
    model = load_model(save_model(tmp_path / "model", save_encoder(tmp_path / "encoder")), "cpu", "fp32")
    area = ImageArea(256, 192, 0, 0, 3, 4, full=False)
    info = image_info(model, flat_grid(model, 3, 4), area, Sampling(seed=7), "largegen generate ...")
    known = set(json.loads(RECORD))
    assert set(info.record()) == known
    assert json.loads(json.dumps(info.record())) == info.record()
    assert Provenance.read(info.record()).settings() == Sampling(seed=7)
