"""A sheet of single patches as a file: choose places, sample, decode, lay out, write."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from largegen.conditioning.area import ImageArea
from largegen.conditioning.familiarity import count_unlike
from largegen.conditioning.reference import Reference
from largegen.embeddings.grid import EmbeddingGrid
from largegen.images.contact_sheet import GAP_PX, lay_out
from largegen.images.finished import lock_outputs
from largegen.images.generate_file import fingerprint_of, job_of
from largegen.images.provenance import image_info
from largegen.images.write import write_image
from largegen.models.model import Model
from largegen.models.pixels import to_images
from largegen.models.token_prior import TokenPrior
from largegen.runtime.fingerprints import content_digest
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.patches import choose_places, grids_at, sample_patches, sample_under
from largegen.sampling.settings import Sampling
from largegen.sampling.tokens import no_grid, sample_tokens
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
        What was done: `out`, `level`, `magnification`, `patches` and `unlike_tiles`; `kept` where the sheet was there
        already.

    Raises:
        LockedError: while another process makes the same sheet.
        OutputError: for a sheet that exists already, or a disk that refuses it.
    """
    sampling = resolve_defaults(sampling, model)
    places = choose_places(reference.tissue, level, count, sampling.seed)
    grids, grid = grids_at(reference, places, level, model.tile_px)
    unlike = count_unlike(model, grid)
    sheet = _Sheet(model, level, count, out, sampling, command, overwrite)
    made = sheet.write(
        grid,
        [repr(places).encode()],
        grids,
        lambda: sample_patches(model, grids, level, sampling, progress=progress),
        unlike,
    )
    return made | {"unlike_tiles": unlike}


def token_file(
    model: Model,
    cdm: TokenPrior,
    level: int,
    count: int,
    out: Path,
    sampling: Sampling,
    *,
    command: str = "",
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Sample patches of nothing that exists, under tokens of a CDM, and write them as a sheet [Z].

    As `sample_file`, but for the reference: `cdm` is that of the model, and the seed that of the tokens too. The report
    says nothing of unlike tiles.
    """
    sampling = resolve_defaults(sampling, model)

    def sample() -> Tensor:
        tokens = sample_tokens(cdm, level, count, sampling.seed, progress)
        return sample_under(model, tokens, sampling, progress=progress)

    sheet = _Sheet(model, level, count, out, sampling, command, overwrite)
    return sheet.write(no_grid(model, sampling.seed), [b"cdm"], cdm.parameters(), sample)


@dataclass(frozen=True)
class _Sheet:
    """A sheet of patches that is to be made."""

    model: Model
    level: int
    count: int
    out: Path
    sampling: Sampling  # defaults filled in
    command: str
    overwrite: bool

    def write(
        self,
        grid: EmbeddingGrid,
        texts: list[bytes],
        weights: Iterable[Tensor],
        sample: Callable[[], Tensor],
        unlike: int | None = None,
    ) -> dict[str, Any]:
        """Sample, decode, lay out and write, unless it is there already.

        Args:
            grid: what the patches are after, for the provenance.
            texts: what the patches depend on beside that and the model.
            weights: likewise.
            sample: gives the latents (N, C, w, w).
            unlike: tiles that the model does not know, see familiarity.py.
        """
        model, level, out = self.model, self.level, self.out
        columns, rows = min(self.count, COLUMNS), -(-self.count // COLUMNS)
        width, height = (n * (model.tile_px + GAP_PX) - GAP_PX for n in (columns, rows))
        about = {"level": level, "magnification": model.level_names[level], "patches": self.count}
        area = ImageArea(width, height, 0, 0, 1, 1, full=False)
        fingerprint = content_digest([fingerprint_of(model, grid, area).encode(), *texts], weights)
        job = job_of(fingerprint, self.sampling, about)
        info = image_info(model, grid, area, self.sampling, self.command, unlike, **about, job=job).of_a_sheet(2**level)
        report = {"out": str(out), **about}
        with ExitStack() as stack:
            if lock_outputs(stack, out, {out: info}, self.overwrite):
                return report | {"kept": True}
            patches = [to_images(guide_image(model, part)) for part in sample().split(DECODE_BATCH)]
            write_image(out, [(0, lay_out(np.concatenate(patches), columns))], info)
        return report
