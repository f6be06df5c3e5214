"""A slide to embed."""

import pytest

from largegen.slides.slide import open_slide


@pytest.fixture(scope="module")
def slide(make_slide):
    with open_slide(make_slide(1300, 1000, name="case.svs")) as slide:
        yield slide
