"""The HTML page of an evaluation: whole, closed in itself, and honest about what is in it."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from helpers.slides import tissue_like
from PIL import Image

from largegen.errors import OutputError
from largegen.metrics.catalogue import CATALOGUE
from largegen.metrics.report.html import Chart, Sheet, SheetRow, flat, overview, thumbnails, write_report
from largegen.metrics.request import METRIC_NAMES
from largegen.metrics.results import Evaluation, Figure, LeftOut, LevelFigures

VOID = {"br", "hr", "img", "input", "link", "meta"}
HOSTILE = "/data/<script>alert(1)&quot;"

CROP_FID = Figure("crop-fid", "Crop FID", 15.51, "lower", 10000, 9000, (14.9, 16.1), None, 12.83, 3.2)
KID = Figure("kid", "KID", 0.00432, "lower", 10000, 10000, standard_error=0.00031, floor=-0.00002)
SIMILARITY = Figure("embedding-similarity", "Embedding similarity", 0.924, "higher", 64, 64, note="<b>few</b> images")
SEAM = Figure("seam", "Seam score", 1.043, "one", 48, 48)


class Page(HTMLParser):
    """The page's elements, ids and text; fails at a tag that is not closed where it must be."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        real={"paths": [HOSTILE, "/data/b.svs"], "pictures": 2, "crops": 10000, "compression": {"JPEG": 2}},
        fake={"paths": ["/runs/generated"], "pictures": 48, "crops": 9000},
        levels=(LevelFigures("20x", (CROP_FID, KID, SIMILARITY, SEAM)), LevelFigures("5x", (CROP_FID,))),
        left_out=(LeftOut("clip-fid", "no weights at hand"),),
        warnings=("the real images are JPEG",),
        settings={"seed": 7, "crops": {"size_px": 256, "placement": "random"}, "tissue_only": True},
    )


@pytest.fixture
def sheets() -> list[Sheet]:
    crops = np.stack([tissue_like(64, 64, seed) for seed in range(4)])
    return [
        Sheet("Crops", "not chosen", "20x", (SheetRow("Real", thumbnails(crops)),), beside=True),
        Sheet("Nearest", "copies?", "20x", (SheetRow("Crop 1", thumbnails(crops[:2], ["generated", "9.31"])),)),
    ]


@pytest.fixture
def page(tmp_path, evaluation, sheets) -> Page:
    write_report(tmp_path / "report.html", evaluation, sheets)
    return Page(tmp_path / "report.html")


def test_every_figure_is_there_with_all_that_qualifies_it(page):
    for text in ("15.51", "14.90 – 16.10", "12.83", "3.20", "10,000 / 9,000", "0.00432", "± 0.00031", "−0.00002"):
        assert text in page.text
    for text in ("0.924", "1.043", "<b>few</b> images", "lower is better", "higher is better", "1 is best"):
        assert text in page.text


def test_warnings_come_before_the_figures_and_left_out_metrics_after(page):
    order = [page.text.index(text) for text in ("the real images are JPEG", "15.51", "no weights at hand", "seed")]
    assert order == sorted(order)


def test_nothing_is_asked_of_the_network_or_of_a_script(page):
    for _, attrs in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attrs)
    assert not page.all("script")
    assert "default-src 'none'" in page.all("meta")[1]["content"]
    css = (ROOT / "largegen/metrics/report/report.css").read_text()
    assert "url(" not in css
    assert "@import" not in css


def test_what_comes_from_outside_is_text(page, tmp_path):
    assert HOSTILE in page.text
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_the_json_is_the_evaluation(page, evaluation):
    content = json.loads(page.text[page.text.index("{\n") : page.text.rindex("}") + 1])
    assert content == json.loads(json.dumps(evaluation.as_dict()))


def test_images_are_inside_and_resemble_the_pixels(page, sheets):
    originals = [thumbnail.pixels for sheet in sheets for row in sheet.rows for thumbnail in row.thumbnails]
    assert len(page.all("img")) == len(originals) == 6
    for attrs, pixels in zip(page.all("img"), originals, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(attrs["src"].partition(",")[2])))
        assert image.format == "WEBP"
        assert np.abs(np.asarray(image, np.float32) - pixels).mean() < 8
    assert [attrs["alt"] for attrs in page.all("img")][-2:] == ["Crop 1, 1 of 2: generated", "Crop 1, 2 of 2: 9.31"]


def test_each_thumbnail_has_its_label():
    with pytest.raises(ValueError, match="shorter"):
        thumbnails(np.zeros((3, 8, 8, 3), np.uint8), ["9.31"])


def test_large_images_are_shrunk(tmp_path, evaluation):
    sheet = Sheet("Whole", "", "20x", (SheetRow("a.tif", thumbnails([np.zeros((600, 2400, 3), np.uint8)])),))
    write_report(tmp_path / "report.html", evaluation, [sheet])
    source = Page(tmp_path / "report.html").all("img")[0]["src"]
    assert Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (1024, 256)


def test_the_page_with_real_crops_stays_under_5_mb(tmp_path, evaluation, shared):
    from largegen.slides.slide import open_slide

    rng = np.random.default_rng(0)
    with open_slide(shared / "data" / "CMU-1-Small-Region.svs") as slide:
        places = rng.integers(0, (slide.width - 256, slide.height - 256), (112, 2))
        crops = [slide.read(float(x), float(y), 256, 256) for x, y in places]
    contact = Sheet("", "", "", (SheetRow("Real", thumbnails(crops[:32])), SheetRow("Fake", thumbnails(crops[32:64]))))
    near = Sheet("", "", "", tuple(SheetRow("", thumbnails(crops[at : at + 6])) for at in range(64, 112, 6)))
    write_report(tmp_path / "report.html", evaluation, [contact, near])
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_the_same_input_gives_the_same_page_but_for_its_date(tmp_path, evaluation, sheets):
    pages = []
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, evaluation, sheets)
        pages.append(re.sub(r"<time.*?</time>", "", (tmp_path / name).read_text()))
    assert pages[0] == pages[1]


def test_the_least_evaluation_makes_a_page(tmp_path):
    figure = Figure("seam", "New", float("nan"), "lower", 1, 1)
    write_report(tmp_path / "report.html", Evaluation({}, {}, (LevelFigures("pixels", (figure,)),)), [])
    page = Page(tmp_path / "report.html")
    assert "unnamed set against unnamed set" in page.text
    for absent in ("Warning", "Left out", "Images", "95 % interval", "Floor", "Extrapolated"):
        assert absent not in page.text


def test_a_file_name_that_is_no_unicode_does_not_cost_the_page(tmp_path, evaluation):
    evaluation.fake["paths"] = [Path("/runs/\udcff.tif")]
    write_report(tmp_path / "report.html", evaluation, [])
    assert "/runs/\\udcff.tif" in Page(tmp_path / "report.html").text


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path, evaluation):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "report.html", evaluation, [])
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_only_metrics_that_appear_are_explained(page):
    assert "Heusel et al. 2017" in page.text
    assert "Chong & Forsyth 2020" in page.text
    assert "Kynkäänniemi" not in page.text


def test_settings_are_flattened():
    nested = {"crops": {"size_px": 256, "mpp": None}, "networks": [{"name": "clip"}], "levels": ["20x", "5x"], "a": {}}
    assert dict(flat(nested)) == {
        **{"crops.size_px": "256", "crops.mpp": "none", "networks.0.name": "clip"},
        **{"levels": "20x\n5x", "a": "none"},
    }
    paths = dict(flat({"paths": [f"{n}.svs" for n in range(100)]}))["paths"].splitlines()
    assert len(paths) == 13
    assert paths[-1] == "and 88 more, in the JSON below"


@pytest.mark.parametrize(
    ("figure", "ends"),
    [
        (CROP_FID, ("0", "20")),
        (KID, ("0", "0.005")),  # a floor just under 0 does not move the axis
        (Figure("kid", "KID", 0.0001, "lower", 9, 9, (-0.0007, 0.001)), ("-0.0008", "0.001")),
        (SIMILARITY, ("0", "1")),
        (Figure("guide-psnr", "PSNR", 28.4, "higher", 9, 9), ("0", "30")),
        (Figure("guide-psnr", "PSNR", float("inf"), "higher", 9, 9), ("0", "1")),
        (SEAM, ("0.95", "1.05")),
        (Figure("seam", "Seam score", 3.4, "one", 9, 9), ("0", "4")),
        (Figure("crop-fid", "Crop FID", 0.0, "lower", 9, 9), ("0", "1")),
    ],
)
def test_each_axis_holds_its_numbers(figure, ends):
    assert Chart(figure).ends == ends


def test_a_chart_places_its_numbers_in_proportion():
    chart = Chart(CROP_FID)  # 0 to 20 on 200 px after a margin of 8
    assert [chart.x(value) for value in (0, 5, 20, 99)] == ["8.0", "58.0", "208.0", "208.0"]
    assert chart.bar(5) == ("8.0", "50.0")
    assert Chart(SEAM).bar(0.975) == ("58.0", "50.0")  # from 1 to the left


def test_every_metric_is_explained():
    assert {name.partition(":")[0] for name in METRIC_NAMES} == set(CATALOGUE)
    assert all(kind.title and kind.meaning for kind in CATALOGUE.values())


def test_precision_and_recall_are_two_rows_of_the_overview():
    pair = tuple(Figure("precision-recall", name, 0.5, "higher", 9, 9) for name in ("Precision", "Recall"))
    rows = overview(Evaluation(real={}, fake={}, levels=(LevelFigures("20x", pair), LevelFigures("10x", pair[:1]))))
    assert rows == [("Precision", [pair[0], pair[0]]), ("Recall", [pair[1], None])]
