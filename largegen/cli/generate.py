"""`largegen generate`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import options as shared
from largegen.cli.embed import Target
from largegen.errors import InputError

if TYPE_CHECKING:
    from largegen.generate import Sampling
    from largegen.model import Model
    from largegen.reference import Region


def generate(
    ref: Annotated[Path | None, typer.Option(help="Reference slide or scene; the tiles it needs are embedded.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Embedding file to use in place of --ref.")] = None,
    size: Annotated[str, typer.Option(help="N, WxH (pixels) or full (all of the reference).")] = "1024",
    region: Annotated[
        str | None,
        typer.Option(
            help="X,Y: top-left corner in level-0 pixels, rounded down to a tile.", show_default="most tissue"
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
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 20,
    guidance: Annotated[
        float, typer.Option(min=0.0, help="Guidance scale: 1 is none, more keeps to the reference.")
    ] = 2.0,
    eta: Annotated[float, typer.Option(help="Noise added by DDIM, 0 to 1.")] = 0.0,
    scheduler: Annotated[str, typer.Option(help="ddim, dpm++ or unipc.")] = "ddim",
    windows: Annotated[
        str, typer.Option(help="overlap: every --stride; shift: side by side, moved at random at every step.")
    ] = "shift",
    stride: Annotated[
        int, typer.Option(min=0, help="Latents between overlapping windows.", show_default="half a window")
    ] = 0,
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
    seed: shared.Seed = 0,
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
    if batch_size != "auto" and not (batch_size.isdigit() and int(batch_size)):
        raise InputError(f"--batch-size {batch_size}: give auto or a number of windows")
    from largegen.reference import parse_region, parse_size

    wanted, corner = parse_size(size), parse_region(region) if region else None
    source = ref or embeddings
    out = out or Path(f"{source.name.split('.')[0]}_synthetic_{size.lower()}.tif")
    from largegen.writers import check_output

    check_output(out, overwrite, wanted)
    from largegen.generate import Sampling, generate_file
    from largegen.model import load_model

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
    network = load_model(model, device, precision)
    if ref is None:
        from largegen.reference import grid_of_file

        grid, place = grid_of_file(network, embeddings, wanted, corner)
    else:
        from largegen.reference import grid_of_slide
        from largegen.slide import open_slide

        with open_slide(ref, source_mpp, source_mag, source_gsd) as slide:
            target = Target(mag, mpp, gsd)
            grid, place = grid_of_slide(
                network,
                slide,
                wanted,
                corner,
                downsample=target.downsample(slide),
                mag=target.magnification(slide),
                tissue_threshold=tissue_threshold,
                tissue_filter=not no_tissue_filter,
                encoder_weights=encoder_weights,
                cache=cache,
                progress=shared.show_progress(),
            )
    if dry_run:
        shared.print_json(_estimate(network, place, sampling, out))
        return
    report = generate_file(
        network,
        grid,
        place,
        out,
        sampling,
        command=shlex.join(["largegen", *sys.argv[1:]]),
        overwrite=overwrite,
        progress=shared.show_progress(),
        save_every_s=save_every,
    )
    if json:
        shared.print_json(report)
    else:
        typer.echo(f"{out}: {place.width}x{place.height} px")


def _estimate(model: "Model", region: "Region", sampling: "Sampling", out: Path) -> dict[str, Any]:
    """What the run would take: time from one batch of windows here, memory and disk from sizes."""
    import time
    from dataclasses import asdict

    import torch

    from largegen.generate import auto_batch_size, count_calls

    batch = sampling.batch_size or auto_batch_size(model)
    latents = torch.zeros(2 * batch, model.autoencoder.channels, model.window, model.window)
    contexts = model.null_context().expand(2 * batch, -1, -1)
    model.eps(latents, 0, contexts)
    started = time.perf_counter()
    model.eps(latents, 0, contexts)
    per_call = (time.perf_counter() - started) / (2 * batch)
    height, width = region.height // model.factor, region.width // model.factor
    calls = count_calls(sampling, model.window, height, width)
    networks = (model.unet, model.autoencoder.vae)
    weights = sum(p.numel() * p.element_size() for net in networks for p in net.parameters())
    return {
        "out": str(out),
        "model": model.info["name"],
        "device": str(model.device),
        "precision": str(model.dtype).removeprefix("torch."),
        "settings": asdict(sampling),
        "region": asdict(region),
        "tiles": region.rows * region.cols,
        "denoiser_calls": calls,
        "seconds": round(calls * per_call, 1),
        "memory_mb": round((weights + 6 * 4 * model.autoencoder.channels * height * width) / 1e6, 1),
        "disk_mb": round(4 * region.width * region.height / 1e6, 1),
    }
