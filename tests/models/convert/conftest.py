"""A published checkpoint, and encoders as wide as the reference's embeddings."""

import pytest
import yaml
from helpers.models import save_encoder

from largegen.models.safe_load import read_checkpoint


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Names of encoders as wide as the reference's embeddings of tiles and of regions."""
    folder = tmp_path_factory.mktemp("encoders")
    return [f"local-dir:{save_encoder(folder / str(width), width=width)}" for width in (48, 96)]


@pytest.fixture(scope="module")
def reference_weights(shared):
    """Name -> tensor of a published checkpoint, and its config."""
    folder = shared / "reference" / "large-image-patch"
    weights = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return weights, yaml.safe_load(next((folder / "configs").glob("*.yaml")).read_text())
