"""The exported folder shows the same from disk: no server, no request outside the folder, plain images as tiles."""

import json
import re

import pytest

from largegen.cli import run
from largegen.errors import InputError, OutputError
from largegen.metrics.report.links import ViewerLinks
from largegen.view.export import export
from largegen.view.scene import open_scene

from .browser import Look


@pytest.fixture(scope="module")
def folder(result_path, slide_path, tmp_path_factory):
    scene = open_scene(result_path, slide_path, levels=True, only_under=True)
    out = tmp_path_factory.mktemp("exported") / "viewer"
    export([scene], out)
    return out


@pytest.fixture(scope="module")
def several(result_path, slide_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "gallery"
    export([open_scene(result_path), open_scene(slide_path)], out)
    return out


def test_all_tiles_are_there_and_nothing_of_the_reference_beside(folder):
    names = {path.relative_to(folder / "0" / "tiles").as_posix() for path in folder.rglob("tiles/*/*/*.jpg")}
    both = {f"{key}/2/{col}_{row}.jpg" for key in "01" for col in range(3) for row in range(2)}
    assert both <= names and "1/3/0_0.jpg" not in names and "2/0/0_0.jpg" in names
    assert (folder / "page/vendor/openseadragon.LICENSE.txt").exists()


def test_the_page_has_all_layers_within(folder):
    page = (folder / "index.html").read_text()
    data = json.loads(re.search(r'id="scene">(.*)</script>', page)[1])
    assert all("kind" in overlay["data"] for overlay in data["overlays"] if overlay["key"] != "similarity")
    assert [overlay["key"] for overlay in data["overlays"]] == ["grid", "seams", "similarity"]


def test_it_works_from_disk(browser, folder):
    look = Look(browser, f"{(folder / 'index.html').as_uri()}#384,256,1;slider;0,1;grid")
    assert look.page.get_attribute(".stage", "data-mode") == "slider" and look.page.is_checked("[data-key=grid] input")
    look.page.keyboard.press("2")
    look.settled()
    assert len(look.views()) == 2 and look.views()[0] == pytest.approx(look.views()[1], rel=1e-6)
    box = look.page.query_selector("#second").bounding_box()
    assert max(look.colour(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)) < 250  # tissue, not the ground
    look.close()
    assert not look.faults and all(url.startswith((folder.as_uri(), "data:", "blob:")) for url in look.asked)


def test_a_gallery_with_figures_works_from_disk(browser, several):
    look = Look(browser, (several / "index.html").as_uri(), ready=False)
    assert "seam score" in look.page.inner_text(".cards li:first-child")
    assert look.page.evaluate("[...document.images].every((image) => image.naturalWidth)")
    look.page.click(".cards li:first-child a")
    look.page.wait_for_selector("#first[data-ready]")
    look.settled()
    look.page.click(".back")
    look.page.wait_for_selector(".cards")
    look.close()
    assert not look.faults


def test_a_folder_that_is_there_is_kept(folder, scene):
    before = (folder / "index.html").stat().st_mtime_ns
    with pytest.raises(OutputError, match="exists already"):
        export([scene], folder)
    assert (folder / "index.html").stat().st_mtime_ns == before


def test_a_report_links_crops_to_their_places(several, result_path, tmp_path):
    links = ViewerLinks.open(several, several.parent / "reports" / "report.html")
    assert links.to(result_path, (128, 200)) == "../gallery/0/index.html#128,200,2"
    assert links.to(tmp_path / "other.tif") == "" and links.to(result_path) == "../gallery/0/index.html"
    with pytest.raises(InputError, match="no folder"):
        ViewerLinks.open(tmp_path, tmp_path / "report.html")


def test_an_evaluation_with_a_viewer_links_to_it(several, result_path, slide_path, tmp_path):
    report = tmp_path / "report.html"
    arguments = [
        "--real",
        slide_path,
        "--fake",
        result_path,
        "--crops",
        "8",
        "--crop-px",
        "64",
        "--metrics",
        "fd:starter",
    ]
    assert run(["eval", *map(str, arguments), "--report", str(report), "--viewer", str(several)]) == 0
    links = re.findall(r'class="label" href="([^"]+)"', report.read_text())
    assert len(links) >= 8 and all("/0/index.html" in link for link in links)
    assert (report.parent / links[0].partition("#")[0]).resolve() == (several / "0" / "index.html").resolve()
