"""`largegen generate`."""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import options as shared
from largegen.errors import InputError
from largegen.settings import Sampling

if TYPE_CHECKING:
    import numpy as np

    from largegen.model import Model
    from largegen.reference import Region


def generate(
    ref: Annotated[Path | None, typer.Option(help="Reference slide or scene; the tiles it needs are embedded.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Embedding file to use in place of --ref.")] = None,
    size: Annotated[str, typer.Option(help="N, WxH (pixels) or full (all of the reference).")] = "1024",
    region: Annotated[
        str | None,
        typer.Option(
            help="X,Y: top-left corner in level-0 pixels, moved up and left to a tile's.", show_default="most tissue"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled model's name, or model directory.")] = "starter",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output; the suffix says the format: .tif, .ome.tif, .dzi, .png or .jpg.",
            show_default="<slide>_synthetic_<size>.tif",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = Sampling.steps,
    guidance: Annotated[
        float, typer.Option(min=0.0, help="Guidance scale: 1 is none, more keeps to the reference.")
    ] = Sampling.guidance,
    eta: Annotated[float, typer.Option(help="Noise added by DDIM, 0 to 1.")] = Sampling.eta,
    scheduler: Annotated[str, typer.Option(help="ddim, dpm++ or unipc.")] = Sampling.scheduler,
    windows: Annotated[
        str, typer.Option(help="overlap: every --stride; shift: side by side, moved at random at every step.")
    ] = Sampling.windows,
    stride: Annotated[
        int, typer.Option(min=0, help="Latents between overlapping windows.", show_default="half a window")
    ] = Sampling.stride,
    batch_size: Annotated[str, typer.Option(help="Windows through the network at once: auto or a number.")] = "auto",
    mag: shared.Mag = None,
    mpp: shared.Mpp = None,
    gsd: shared.Gsd = None,
    source_mpp: shared.SourceMpp = None,
    source_mag: shared.SourceMag = None,
    source_gsd: shared.SourceGsd = None,
    tissue_threshold: shared.TissueThreshold = None,
    no_tissue_filter: shared.NoTissueFilter = False,
    encoder_weights: shared.EncoderWeights = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of embedded regions.", show_default="~/.cache/largegen")
    ] = None,
    save_every: Annotated[float, typer.Option(min=0.0, help="Seconds between saves of the unfinished canvas.")] = 30.0,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    seed: shared.Seed = Sampling.seed,
    overwrite: shared.Overwrite = False,
    dry_run: shared.DryRun = False,
    json: shared.Json = False,
) -> None:
    """Make a large synthetic image that is laid out like a reference.

    Embeds the reference (or takes its embedding file), samples overlapping or shifted windows under the interpolated
    embeddings, and writes a pyramidal TIFF or what the suffix of --out says. Killed, the same command goes on.
    """
    if (ref is None) == (embeddings is None):
        raise InputError("give --ref SLIDE or --embeddings FILE.h5")
    if sum(value is not None for value in (mag, mpp, gsd)) > 1:
        raise InputError("--mag, --mpp, --gsd: give only one of them")
    of_slides = (mag, mpp, gsd, source_mpp, source_mag, source_gsd, tissue_threshold, encoder_weights, cache)
    if embeddings and (no_tissue_filter or any(value is not None for value in of_slides)):
        raise InputError("--embeddings: resolution, tissue filter, encoder and cache are options of --ref only")
    if batch_size != "auto" and not (batch_size.isdecimal() and int(batch_size)):
        raise InputError(f"--batch-size {batch_size}: give auto or a number of windows")
    sampling = Sampling(
        steps=steps,
        guidance=guidance,
        eta=eta,
        scheduler=scheduler,
        windows=windows,
        stride=stride,
        batch_size=0 if batch_size == "auto" else int(batch_size),
        seed=seed,
    )
    sampling.check()
    from largegen.reference import parse_region, parse_size

    wanted, corner = parse_size(size), parse_region(region) if region else None
    name = (ref or embeddings).stem.removesuffix(".ome")
    out = out or Path(f"{name}_synthetic_{size.lower()}.tif")
    from largegen.writers import check_output

    check_output(out, overwrite, wanted)
    from largegen.distributed import join
    from largegen.generation import effective, generate_file
    from largegen.model import load_model
    from largegen.reference import file_reference, slide_reference
    from largegen.slide import open_slide

    network = load_model(model, device, precision)
    main = join(network.device).is_main_process
    if not main:
        shared.set_up_logging(logging.ERROR)
    progress = shared.show_progress()
    settings = effective(sampling, network)
    with ExitStack() as stack:
        if ref is None:
            reference = file_reference(network, embeddings)
        else:
            slide = stack.enter_context(open_slide(ref, source_mpp, source_mag, source_gsd))
            target = shared.Target(mag, mpp, gsd)
            reference = slide_reference(
                network,
                slide,
                downsample=target.downsample(slide),
                mag=target.magnification(slide),
                tissue_threshold=tissue_threshold,
                tissue_filter=not no_tissue_filter,
                encoder_weights=encoder_weights,
                cache=cache,
                progress=progress,
            )
        place = reference.region(network, wanted, corner)
        if dry_run:
            if main:
                shared.print_json(_estimate(network, place, reference.tissue[place.tiles], settings, out))
            return
        grid = reference.grid(place)
    report = generate_file(
        network,
        grid,
        place,
        out,
        sampling,
        command=shlex.join(["largegen", *sys.argv[1:]]),
        overwrite=overwrite,
        progress=progress,
        save_every_s=save_every,
    )
    if main and json:
        shared.print_json(report)
    elif main:
        typer.echo(f"{out}: {place.width}x{place.height} px")


def _estimate(model: "Model", region: "Region", tissue: "np.ndarray", sampling: Sampling, out: Path) -> dict[str, Any]:
    """What the run would take, but for embedding: time and memory from a batch of windows here, disk from the size."""
    import torch

    from largegen.generation import count_calls, count_decoded
    from largegen.reference import pure_background

    windows = 2 * sampling.batch_size  # as under guidance
    latents = torch.zeros(windows, model.autoencoder.channels, model.window, model.window)
    contexts = model.null_context().expand(windows, -1, -1)
    per_call = _seconds(lambda: model.eps(latents, 0, contexts).cpu()) / windows
    per_decoded = _seconds(lambda: model.autoencoder.decode(latents[:4]).cpu()) / len(latents[:4])
    height, width = region.height // model.factor, region.width // model.factor
    skip = pure_background(tissue, model.window, height, width) if region.full else None
    calls = count_calls(sampling, model.window, height, width, skip)
    decoded = count_decoded(sampling, model.window, height, width, skip)
    canvas = 6 * 4 * model.autoencoder.channels * height * width
    return {
        "out": str(out),
        "model": model.info["name"],
        "device": str(model.device),
        "precision": str(model.dtype).removeprefix("torch."),
        "settings": asdict(sampling),
        "region": asdict(region),
        "tiles": region.rows * region.cols,
        "tissue_tiles": int(tissue.sum()),
        "denoiser_calls": calls,
        "seconds": round(calls * per_call + decoded * per_decoded, 1),
        "memory_mb": round((_peak_memory(model) + canvas) / 1e6, 1),
        "disk_mb": round(4 * region.width * region.height / 1e6, 1),
    }


def _seconds(compute: Callable[[], Any]) -> float:
    compute()  # warms up
    started = time.perf_counter()
    compute()
    return time.perf_counter() - started


def _peak_memory(model: "Model") -> int:
    """Bytes that were in use at once until now: of the GPU, else of this process."""
    import torch

    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated(model.device)
    try:
        import resource
    except ImportError:  # Windows: the networks' weights alone
        networks = (model.unet, model.autoencoder.vae)
        return sum(p.numel() * p.element_size() for net in networks for p in net.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
