"""What the benchmarks share: options, the reference, time and memory, and tables."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from largegen.conditioning.reference import SlideOnDemand, slide_reference
from largegen.conditioning.suitable import encoder_of
from largegen.embeddings.grid import EmbeddingGrid
from largegen.embeddings.options import EmbedOptions
from largegen.errors import LargegenError
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.runtime.files import write_json
from largegen.sampling.generate import decode_bands, resolve_defaults
from largegen.sampling.settings import Sampling
from largegen.slides.slide import open_slide
from largegen.version import __version__


def options(description: str, size: int | None = None, needs_ref: bool = True) -> argparse.ArgumentParser:
    """A parser with the options of most benchmarks; those of the reference and its image where it `needs_ref`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--model", default="starter", help="bundled model's name or model directory")
    parser.add_argument("--device", default="auto")
    if needs_ref:
        parser.add_argument("--ref", type=Path, required=True, help="reference slide")
        parser.add_argument("--source-mag", type=float, help="the reference's magnification, if it does not say")
        parser.add_argument("--mag", type=float, default=20.0, help="magnification to work at (default: 20)")
        parser.add_argument("--size", type=int, default=size, help=f"side of the image in px (default: {size})")
        parser.add_argument("--guidance", type=float, default=Sampling.guidance)
    return parser


def read_reference(args: argparse.Namespace, model: Model) -> tuple[EmbeddingGrid, np.ndarray]:
    """The grid of embeddings under an image of --size, and the real image (size, size, 3) uint8 itself."""
    with open_slide(args.ref, source_mag=args.source_mag) as slide, tempfile.TemporaryDirectory() as cache:
        downsample = slide.downsample_for(mag=args.mag)
        size = (args.size, args.size)
        source = SlideOnDemand(slide, downsample, EmbedOptions(model.tile_px), args.mag, Path(cache))
        reference = slide_reference(model, source)
        grid = reference.grid(reference.area(model, size))
        return grid, slide.read(*grid.origin_xy, *size, downsample)


def own_encoder(model: Model) -> Encoder:
    """The encoder that a model was trained with."""
    return load_encoder(encoder_of(model), device=model.device)


@contextmanager
def counted(model: Model) -> Iterator[list[int]]:
    """Count how many windows the denoiser sees: the list given holds the number."""
    calls, eps = [0], model.eps

    def counting(latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls[0] += len(latents)
        return eps(latents, *rest)

    model.eps = counting
    try:
        yield calls
    finally:
        del model.eps  # the class's own again


def decode(model: Model, canvas: torch.Tensor, stride: int = 0) -> np.ndarray:
    """The image (H, W, 3) uint8 of a canvas of latents, as `generate` decodes it; stride: in latents, 0 its own."""
    settings = resolve_defaults(Sampling(decode_stride=stride), model)
    return np.concatenate([band for _, band in decode_bands(model, canvas, settings)])


def timed(function: Callable, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """(result, seconds) of a call, with all that it started on a GPU finished."""
    synchronize()
    started = time.perf_counter()
    result = function(*args, **kwargs)
    synchronize()
    return result, time.perf_counter() - started


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Measured(NamedTuple):
    """What a command printed, and what it took."""

    printed: str
    seconds: float
    peak_mb: float  # resident memory
    processor_seconds: float


def run_measured(command: Sequence[str]) -> Measured:
    """Run a command to its end.

    Raises LargegenError where it fails; what it says on stderr goes to ours.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed, subprocess.Popen(command, stdout=printed) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise LargegenError(f"{' '.join(command)}: exit code {process.returncode}")
        printed.seek(0)
        per_mb = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in kB elsewhere
        return Measured(printed.read(), seconds, usage.ru_maxrss / per_mb, usage.ru_utime + usage.ru_stime)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same keys; floats with three significant digits, None as a dash."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

    lines = [list(rows[0]), ["---"] * len(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on and with."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "largegen": __version__,
    }


def report(rows: Sequence[Mapping[str, Any]], path: Path | None, **more: Any) -> None:
    """Print the table, and write it with `more` as JSON if there is a path."""
    print(table(rows))
    if path:
        write_json(path, {**more, "rows": list(rows)})


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; an error of ours is one line."""
    try:
        main()
    except LargegenError as error:
        sys.exit(f"error: {error}")
