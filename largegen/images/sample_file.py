"""A sheet of single patches as a file: choose places, sample, decode, lay out, write."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from largegen.conditioning.area import ImageArea
from largegen.conditioning.familiarity import count_unlike
from largegen.conditioning.reference import Reference
from largegen.images.contact_sheet import GAP_PX, lay_out
from largegen.images.finished import lock_outputs
from largegen.images.generate_file import fingerprint_of, job_of
from largegen.images.provenance import image_info
from largegen.images.write import write_image
from largegen.models.model import Model
from largegen.models.pixels import to_images
from largegen.runtime.fingerprints import content_digest
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.patches import choose_places, grids_at, sample_patches
from largegen.sampling.settings import Sampling
from largegen.sampling.zoom.guide import guide_image

COLUMNS = 8  # of a sheet, at most
DECODE_BATCH = 8  # patches that are decoded at once


def sheet_size(model: Model, count: int) -> tuple[int, int]:
    """Return the (width, height) in px of a sheet of `count` patches, without its gaps."""
    return min(count, COLUMNS) * model.tile_px, -(-count // COLUMNS) * model.tile_px


def sample_file(
    model: Model,
    reference: Reference,
    level: int,
    count: int,
    out: Path,
    sampling: Sampling,
    *,
    command: str = "",
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Sample patches at random places of a reference and write them as a sheet.

    Args:
        model: whose denoiser samples.
        reference: an open one.
        level: magnification level of the patches.
        count: number of patches.
        out: of the sheet; its suffix names the format.
        sampling: settings; the seed also chooses the places.
        command: for the provenance.
        overwrite: whether `out` may exist.
        progress: show a progress bar.

    Returns:
        What was done: `out`, `level`, `magnification` and `patches`; `kept` where the sheet was there already.

    Raises:
        LockedError: while another process makes the same sheet.
        OutputError: for a sheet that exists already, or a disk that refuses it.
    """
    sampling = resolve_defaults(sampling, model)
    places = choose_places(reference.tissue, level, count, sampling.seed)
    grids, grid = grids_at(reference, places, level, model.tile_px)
    columns, rows = min(count, COLUMNS), -(-count // COLUMNS)
    width, height = (n * (model.tile_px + GAP_PX) - GAP_PX for n in (columns, rows))
    about = {"level": level, "magnification": model.level_names[level], "patches": count}
    area = ImageArea(width, height, 0, 0, 1, 1, full=False)
    unlike = count_unlike(model, grid)
    fingerprint = content_digest([fingerprint_of(model, grid, area).encode(), repr(places).encode()], grids)
    job = job_of(fingerprint, sampling, about)
    info = image_info(model, grid, area, sampling, command, unlike, **about, job=job).of_a_sheet(2**level)
    report = {"out": str(out), **about, "unlike_tiles": unlike}
    with ExitStack() as stack:
        if lock_outputs(stack, out, {out: info}, overwrite):
            return report | {"kept": True}
        latents = sample_patches(model, grids, level, sampling, progress=progress)
        patches = [to_images(guide_image(model, part)) for part in latents.split(DECODE_BATCH)]
        write_image(out, [(0, lay_out(np.concatenate(patches), columns))], info)
    return report
