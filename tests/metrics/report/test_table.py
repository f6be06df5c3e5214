"""The table of an evaluation in the terminal, and how its numbers are written."""

import pytest

from largegen.metrics.report.table import number, table_text
from largegen.metrics.results import Evaluation, Figure, LeftOut, LevelFigures


def figure(value: float, better: str = "lower", name: str = "Crop FID", **more) -> Figure:
    return Figure("crop-fid", name, value, better, 10000, 9000, **more)


@pytest.mark.parametrize(
    ("value", "more", "text"),
    [
        (15.5123, {}, "15.51"),
        (3.2, {}, "3.20"),
        (0.9241, {}, "0.924"),
        (0.0043219, {}, "0.00432"),
        (214.31, {}, "214.3"),
        (2143.1, {}, "2143"),
        (28.411, {"better": "higher"}, "28.41"),
        (1.0041, {"better": "one"}, "1.004"),
        (0.0, {}, "0.00"),
        (-0.0000001, {"interval": (-0.0021, 0.0019)}, "0.00000"),  # no finer than it is known, and no minus zero
        (15.5123, {"standard_error": 21.0}, "15.51"),
        (15.5123, {"standard_error": 210.0}, "15.5"),
        (3.21e-9, {}, "3.21e-09"),
        (float("inf"), {}, "inf"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(value, more, text):
    shown = figure(value, **more)
    assert number(shown, shown.value) == text


def test_a_figures_numbers_share_their_decimals():
    shown = figure(15.51, interval=(14.9, 16.1), floor=3.2)
    assert [number(shown, value) for value in (*shown.interval, shown.floor)] == ["14.90", "16.10", "3.20"]


def test_the_table_is_aligned_and_says_all():
    levels = (
        LevelFigures("20x", (figure(15.51, interval=(14.9, 16.1), floor=3.2, infinity=12.8, note="of few"),)),
        LevelFigures("5x", (figure(0.924, "higher", "Embedding similarity"),)),
    )
    evaluation = Evaluation({}, {}, levels, (LeftOut("clip-fid", "no weights at hand"),), ("JPEG",))
    assert table_text(evaluation).splitlines() == [
        "20x                   value  95 % interval  floor  N=inf   real/fake  best",
        "Crop FID              15.51  14.90 - 16.10   3.20  12.80  10000/9000   low",
        "",
        "5x                    value  95 % interval  floor  N=inf   real/fake  best",
        "Embedding similarity  0.924                               10000/9000  high",
        "",
        "note: 20x, Crop FID: of few",
        "left out: clip-fid: no weights at hand",
        "warning: JPEG",
    ]


def test_columns_that_no_figure_has_are_not_shown():
    text = table_text(Evaluation({}, {}, (LevelFigures("pixels", (figure(31.2),)),)))
    assert text.splitlines()[0].split() == ["pixels", "value", "real/fake", "best"]


def test_the_table_fits_100_characters():
    long = figure(
        **{"value": 0.00432, "interval": (0.0038, 0.0049), "standard_error": 0.0003, "floor": -0.00002},
        **{"infinity": 0.004, "name": "Fréchet distance, local-dir:" + "folder/" * 20 + "model", "note": "so " * 50},
    )
    text = table_text(Evaluation({}, {}, (LevelFigures("20x", (long,)),)))
    assert max(map(len, text.splitlines()[:2])) <= 100
    assert "r/model" in text.splitlines()[1]


def test_an_evaluation_without_figures_is_its_remarks():
    assert table_text(Evaluation({}, {}, (), warnings=("nothing to compare",))) == "warning: nothing to compare"
