"""Encoders whose embeddings are imported."""

import pytest
from helpers.models import save_encoder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return f"local-dir:{save_encoder(tmp_path_factory.mktemp('encoder') / 'e')}"


@pytest.fixture(scope="module")
def phikon() -> dict[str, str]:
    """What to say of the 768 numbers of an encoder whose weights are not at hand."""
    return {"encoder": "phikon"}
