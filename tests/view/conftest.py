"""A slide, an image that says it was made after it, and the scene of both. Read only."""

import pytest
from helpers.views import made_after

pytest.importorskip("starlette", reason="the extra `view` is not installed")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, one for all tests of pages."""
    from .browser import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def result_path(slide_path, tmp_path_factory):
    """A 768x512 px image with a guide and one level beside it, made after a place of `slide_path`."""
    return made_after(slide_path, tmp_path_factory.mktemp("results") / "made.tif", guide=True)


@pytest.fixture(scope="session")
def scene(result_path, slide_path):
    """The image, its reference, its guide and its level."""
    from largegen.view.scene import open_scene

    return open_scene(result_path, slide_path, levels=True)
