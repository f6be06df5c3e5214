"""An evaluation as a plain-text table, and how its numbers are written."""

import math
import textwrap
from collections.abc import Callable, Iterator

from largegen.metrics.results import Evaluation, Figure

BEST_LABELS = {"lower": "low", "higher": "high", "one": "1"}
MAX_LINE_CHARS = 100  # characters
MIN_NAME_CHARS = 20  # characters that a metric's name keeps where the table is wide

Column = tuple[str, Callable[[Figure], str]]  # heading and cell; a column whose cells are all empty is not shown


def number(figure: Figure, value: float | None) -> str:
    """Format one of the figure's numbers, all of them with the same decimals; nothing for None."""
    return "" if value is None else format(value, number_format(figure))


def number_format(figure: Figure) -> str:
    """Choose the format that shows 3 digits of the value, 4 from 10 on, and no more than 3 of its uncertainty."""
    low, high = figure.interval or (0.0, 0.0)
    value = min(abs(figure.value), 0.999) if figure.better == "one" else abs(figure.value)  # 1.004 is not 1.00
    sizes = [value, figure.standard_error or (high - low) / 2]
    decimals = min((_decimals(size) for size in sizes if size and math.isfinite(size)), default=2)
    return f"z.{decimals}f" if decimals <= 7 else ".2e"


def _decimals(size: float) -> int:
    return max(0, (2 if size < 10 else 3) - math.floor(math.log10(size)))


def table_text(evaluation: Evaluation) -> str:
    """Lay out the figures level by level in aligned columns, then their notes, what was left out, and the warnings."""
    figures = [figure for level in evaluation.levels for figure in level.figures]
    columns = [(heading, cell) for heading, cell in _COLUMNS if any(cell(figure) for figure in figures)]
    rows = []
    for level in evaluation.levels:
        rows.append([level.level, *(heading for heading, _ in columns)])
        rows += [[figure.name, *(cell(figure) for _, cell in columns)] for figure in level.figures]
        rows.append([""] * (len(columns) + 1))
    names, *widths = (max((len(row[at]) for row in rows), default=0) for at in range(len(columns) + 1))
    names = min(names, max(MIN_NAME_CHARS, MAX_LINE_CHARS - sum(widths) - 2 * len(widths)))
    lines = [_line(row, names, widths) for row in rows]
    return "\n".join([*lines, *_remarks(evaluation)]).rstrip()


_COLUMNS: tuple[Column, ...] = (
    ("value", lambda figure: number(figure, figure.value)),
    ("95 % interval", lambda figure: " - ".join(number(figure, end) for end in figure.interval or ())),
    ("s.e.", lambda figure: number(figure, figure.standard_error)),
    ("floor", lambda figure: number(figure, figure.floor)),
    ("N=inf", lambda figure: number(figure, figure.infinity)),
    ("real/fake", lambda figure: f"{figure.real_count}/{figure.fake_count}"),
    ("best", lambda figure: BEST_LABELS[figure.better]),
)


def _line(row: list[str], names: int, widths: list[int]) -> str:
    """Lay out the name to the left, cut in its middle where it is too long; the other cells to the right."""
    name, *cells = row
    if len(name) > names:
        half = (names - 3) // 2
        name = f"{name[:half]}...{name[-half:]}"
    return "  ".join([name.ljust(names), *map(str.rjust, cells, widths)]).rstrip()


def _remarks(evaluation: Evaluation) -> Iterator[str]:
    several = len(evaluation.levels) > 1
    notes = dict.fromkeys(
        f"{level.level + ', ' if several else ''}{figure.name}: {figure.note}"
        for level in evaluation.levels
        for figure in level.figures
        if figure.note
    )
    remarks = [f"note: {note}" for note in notes]
    remarks += [f"left out: {left.metric}: {left.why}" for left in evaluation.left_out]
    remarks += [f"warning: {warning}" for warning in evaluation.warnings]
    for remark in remarks:
        yield textwrap.fill(
            remark, MAX_LINE_CHARS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
