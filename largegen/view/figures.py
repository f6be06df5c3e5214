"""The figures of one image for a gallery: those of `largegen eval` that need no more than it and its reference."""

from pathlib import Path
from typing import Any

from largegen.errors import LargegenError
from largegen.metrics.per_image.guide import guide_of, guide_psnr_of_file
from largegen.metrics.per_image.seams import borders_of, seam_of_file
from largegen.view.layers import WRONG, check_sane
from largegen.view.overlays import Overlay
from largegen.view.sources import Opened

Figures = tuple[tuple[str, str], ...]


def figures_of(opened: Opened, similarity: Overlay | None) -> Figures:
    """Compute what can be said of a generated image: seam score, agreement with its guide, embedding similarity.

    Args:
        opened: the image; of one that is no result there are no figures.
        similarity: the layer that has it, where the reference is shown.
    """
    record = opened.provenance
    if not record or opened.slide is None:
        return ()
    found = [("seam score", _or_none(lambda: _seam(opened, record)))]
    found.append(("PSNR with the guide", _or_none(lambda: _guide(opened.path, record))))
    if similarity is not None:
        mean = similarity.data().get("mean")
        found.append(("similarity", None if mean is None else f"{mean:.3f}"))
    return tuple((name, value) for name, value in found if value is not None)


def _or_none(compute: Any) -> str | None:
    """Compute a figure; None where the image or its record allows none."""
    try:
        value: str | None = compute()
    except (LargegenError, *WRONG):
        return None
    return value


def _seam(opened: Opened, record: dict[str, Any]) -> str:
    assert opened.slide is not None
    check_sane(record)
    return f"{seam_of_file(opened.slide, *borders_of(record)):.3f}"


def _guide(path: Path, record: dict[str, Any]) -> str | None:
    guide = guide_of(path, record)
    return None if guide is None else f"{guide_psnr_of_file(path, guide):.1f} dB"
