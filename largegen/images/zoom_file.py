"""A picture of `largegen zoom` and what lies beside it, as files: sample, decode, write."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from largegen.conditioning.area import Region
from largegen.embeddings.grid import EmbeddingGrid
from largegen.images.generate_file import claim, fingerprint_of
from largegen.images.provenance import image_info
from largegen.images.write import check_output, write_image
from largegen.models.model import Model, level_names
from largegen.models.pixels import to_pictures
from largegen.sampling.generate import decode_bands, effective
from largegen.sampling.settings import Sampling, Zooming
from largegen.sampling.zoom.downsample import Shrunk, watching
from largegen.sampling.zoom.zoom import (
    beside,
    canvas_sampling,
    guide_picture,
    guide_psnr,
    level_of,
    seen_from_afar,
    zoom_latents,
)


def zoom_file(
    model: Model,
    grid: EmbeddingGrid,
    region: Region,
    out: Path,
    sampling: Sampling,
    zooming: Zooming,
    *,
    command: str = "",
    levels: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    save_every_s: float = 30.0,
) -> dict[str, Any]:
    """Make the picture of `region` and write it to `out`, its guide beside it as `<out>_guide.png`; says what was done.

    levels: also write the picture as every magnification between shows it, `<out>_10x.png` and so on; these are held in
    memory, a third of the picture's pixels at most. Killed, the same call goes on. Raises what
    generate_file.generate_file does.
    """
    sampling = canvas_sampling(model, effective(sampling, model), zooming)
    level = level_of(model, (region.width, region.height))
    made_by = {"zoom": zooming.as_dict()}
    info = image_info(model, grid, region, sampling, command, made_by)
    names = level_names(info.mpp, level + 1)
    level_files = {k: side_file(out, names[k]) for k in range(1, level)} if levels else {}
    guide_out = side_file(out, "guide")
    partial = out.with_name(f".{out.name}.partial")
    started = time.perf_counter()
    with ExitStack() as stack:
        partials = (partial, beside(partial, "draft"), beside(partial, "seams"))
        claim(stack, out, overwrite, (region.width, region.height), *partials)
        for path in (guide_out, *level_files.values()):
            check_output(path, overwrite or any(p.exists() for p in partials))
        guide, canvas = zoom_latents(
            model,
            torch.from_numpy(grid.features),
            sampling,
            zooming,
            checkpoint=partial,
            fingerprint=fingerprint_of(model, grid, region),
            save_every_s=save_every_s,
            progress=progress,
        )
        sampled = time.perf_counter()
        picture = to_pictures(guide_picture(model, guide))[0]
        seen, between = seen_from_afar(2**level), {k: Shrunk(2**k) for k in level_files}

        def bands() -> Iterator[tuple[int, np.ndarray]]:
            yield from watching(decode_bands(model, canvas, sampling, progress=progress), seen, *between.values())
            # What lies beside the picture is there before the picture is, whose being there says that all is done.
            pictures = {level: (guide_out, picture)} | {k: (level_files[k], between[k].picture) for k in level_files}
            for k, (path, pixels) in pictures.items():
                write_image(path, [(0, pixels)], info.at(2**k, {"level": k, "guide": k == level}))

        write_image(out, bands(), info)
        for path in partials:
            path.unlink(missing_ok=True)
    return {
        "out": str(out),
        "guide": str(guide_out),
        "levels": {names[k]: str(path) for k, path in level_files.items()},
        "width": region.width,
        "height": region.height,
        "reference_xy": list(grid.origin_xy),
        "guide_magnification": names[level],
        "guide_psnr": round(guide_psnr(picture, seen.picture), 2),
        "sample_seconds": round(sampled - started, 2),
        "decode_seconds": round(time.perf_counter() - sampled, 2),
    }


def side_file(out: Path, what: str) -> Path:
    """The PNG beside a picture that shows its guide or another magnification."""
    return out.with_name(f"{out.stem.removesuffix('.ome')}_{what}.png")
