"""The bundled models know their own kind of image: silent on every test region of it, warned of every other one."""

import csv

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from largegen.models.encoder import load_encoder
from largegen.models.known_embeddings import UNLIKE_SHARE
from largegen.models.model import load_model

DATA = ROOT.parent / "shared" / "data" / "images"


def held_out_regions() -> dict[str, list]:
    """The test regions of each kind in the manifest."""
    found = {"histology": [], "aerial": []}
    if DATA.exists():
        with (DATA / "manifest.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                folder, _, name = row["file"].partition("/")
                if row["split"] == "test" and folder in found and "/" not in name:
                    found[folder].append(DATA / row["file"])
    return found


@pytest.mark.skipif(not DATA.exists(), reason="needs the real regions in ../shared/data/images")
def test_silent_on_their_own_kind_and_not_on_the_other():
    encoder = load_encoder("starter", device="cpu")
    codes = {}
    for kind, paths in held_out_regions().items():
        for path in paths:
            image = np.asarray(Image.open(path).convert("RGB"))
            rows, cols = (min(4, side // 256) for side in image.shape[:2])
            tiles = [image[256 * r :, 256 * c :][:256, :256] for r in range(rows) for c in range(cols)]
            codes[kind, path.stem] = torch.from_numpy(encoder.encode(np.stack(tiles)))
    assert len(codes) >= 18
    for model, own in (("tissue", "histology"), ("aerial", "aerial")):
        known = load_model(model, "cpu").known
        for (kind, name), features in codes.items():
            speaks = known.unlike(features) > UNLIKE_SHARE * len(features)
            assert speaks == (kind != own), (model, name, known.unlike(features), len(features))
