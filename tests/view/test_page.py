"""The page in a real browser: what it shows and how it answers; nothing is fetched but from its own server."""

import pytest

from .browser import Look, serving

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def address(scene):
    from largegen.view.server import make_app

    with serving(make_app([scene])) as found:
        yield found


@pytest.fixture
def look(browser, address):
    """Factory of pages; when the test ends, nothing must have gone wrong on any."""
    pages = []

    def open_(after="", **how):
        pages.append(Look(browser, address + after, **how))
        return pages[-1]

    yield open_
    for page in pages:
        page.close()
        assert not page.faults
        assert all(url.startswith((address, "data:", "blob:")) for url in page.asked)


def test_image_and_reference_move_in_step(look):
    one = look()
    page = one.page
    assert page.get_attribute(".stage", "data-mode") == "side"
    before = one.view()
    page.mouse.move(200, 400)
    page.mouse.wheel(0, -400)
    page.mouse.down()
    page.mouse.move(140, 330, steps=4)
    page.mouse.up()
    one.until(f"document.querySelector('.stage').panes.view.zoom > {1.1 * before['zoom']}")
    page.wait_for_timeout(600)  # until it rests
    first, second = one.views()
    assert first == pytest.approx(second, rel=1e-6)
    page.keyboard.press("0")
    page.wait_for_timeout(600)
    after = one.view()
    assert after["x"] == pytest.approx(384, abs=1) and after["y"] == pytest.approx(256, abs=1)
    assert page.inner_text(".scalebar").strip() in ("50 µm", "100 µm") and "×" in page.inner_text(".readout")


def test_a_link_keeps_the_view_the_mode_and_the_layers(look):
    one = look("#300,200,2;slider;0,2;grid")
    page = one.page
    view = one.view()
    assert (view["x"], view["y"], view["zoom"]) == pytest.approx((300, 200, 2), rel=1e-3)
    assert page.get_attribute(".stage", "data-mode") == "slider"
    assert page.input_value("#second select") == "2" and page.is_checked("[data-key=grid] input")
    page.keyboard.press("ArrowRight")
    one.until("!location.hash.startsWith('#300')")
    found = page.evaluate("location.hash").split(";")
    assert found[1:] == ["slider", "0,2", "grid"] and float(found[0][1:].split(",")[0]) > 300


def test_the_slider_and_the_blink_key_show_one_or_the_other(look):
    """The image is mirrored tile by tile: somewhere the two differ."""
    one = look("#384,256,1;slider;0,1")
    page = one.page
    one.settled()
    box = page.query_selector(".stage").bounding_box()
    left = one.page.evaluate("document.querySelector('.stage').panes.border")
    page.focus(".divider")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('.stage').panes.border") == pytest.approx(left + 0.02)
    page.mouse.move(box["x"] + box["width"] * (left + 0.02), box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 300, steps=3)
    page.mouse.up()
    assert page.get_attribute(".divider", "aria-valuenow") == "25"
    page.keyboard.press("1")
    places = [(box["x"] + box["width"] / 2 + 30 * n, box["y"] + box["height"] / 2 + 10) for n in range(-4, 5)]
    first = [one.colour(*place) for place in places]
    page.keyboard.press("b")
    second = [one.colour(*place) for place in places]
    page.keyboard.press("b")
    assert first != second and first == [one.colour(*place) for place in places]


def test_layers_are_drawn_and_explained(look):
    one = look("#128,128,1;one")
    page = one.page
    box = page.query_selector(".stage").bounding_box()
    middle = box["x"] + box["width"] // 2, box["y"] + box["height"] // 2
    plain = one.colour(*middle)
    page.check("[data-key=reference-kept] input")
    one.until("document.querySelector('[data-key=reference-kept] .legend').textContent.includes('kept')")
    page.check("[data-key=reference-mask] input")
    one.until("document.querySelector('[data-key=reference-mask] .legend').textContent.includes('%')")
    page.wait_for_timeout(200)
    assert one.colour(*middle) != plain
    page.keyboard.press("g")
    assert page.is_checked("[data-key=grid] input")
    page.check("[data-key=seams] input")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_both_themes_and_narrow_screens(look, theme, width):
    one = look(width=width, height=844, theme=theme)
    page = one.page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[theme]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.is_visible(".panel") == (width == 1440)
    if width == 390:
        page.click("[data-do=panel]")
        assert page.is_visible(".panel") and page.is_visible(".layers")
    assert "largegen generate --ref slide.tif" in page.inner_text(".facts")
    small = page.evaluate(
        "[...document.querySelectorAll('.bar button')].filter((one) => one.offsetParent)"
        ".filter((one) => one.offsetWidth < 28 || one.offsetHeight < 28).length"
    )
    assert not small
    page.click("[data-do=theme]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper


def test_touch_and_help(look):
    one = look()
    page = one.page
    page.keyboard.press("?")
    assert page.is_visible(".help") and "Side by side" in page.inner_text(".help")
    page.keyboard.press("Escape")
    assert page.is_hidden(".help")
    assert page.evaluate("getComputedStyle(document.querySelector('.stage')).touchAction") == "none"
