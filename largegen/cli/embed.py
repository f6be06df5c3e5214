"""`largegen embed`: slides -> embedding files."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.import_ import import_files, refuse_same_names
from largegen.cli.one_job import kept
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError
from largegen.models.encoder_registry import ENCODER_HELP

if TYPE_CHECKING:
    from largegen.models.encoder import Encoder
    from largegen.slides.resolution import Resolution
    from largegen.slides.slide import Slide


def embed(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="Slides, scenes, images or directories of them; with --import, embedding files or directories.",
            metavar="SLIDE...",
        ),
    ],
    out: shared.EmbeddingsOut,
    *,
    recursive: shared.Recursive = False,
    resolution: shared.ResolutionOptions,
    tile_px: Annotated[
        int | None,
        typer.Option(min=16, help="Side of a tile, in pixels at that resolution.", show_default="256"),
    ] = None,
    overlap_px: Annotated[
        int | None, typer.Option("--overlap", min=0, help="Pixels that neighbouring tiles share.", show_default="0")
    ] = None,
    options: EmbedOptions,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Also write <slide>.png: a thumbnail with the tiles drawn on it."),
    ] = False,
    encoder: Annotated[str | None, typer.Option(help=ENCODER_HELP, show_default="starter")] = None,
    encoder_weights: shared.EncoderWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    format_: shared.Format = "h5",
    keep_going: shared.KeepGoing = False,
    import_: Annotated[
        bool,
        typer.Option(
            "--import",
            help="Convert embedding files of other projects (ZoomLDM, TRIDENT, CLAM: .npy, .npz, .h5, .pkl) instead.",
        ),
    ] = False,
    slide: Annotated[
        Path | None, typer.Option(help="With --import of one file: the slide that it was made from.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="With --import: which array, if a file has several: feat_20x, or 3/feat_20x in a list."),
    ] = None,
    overwrite: shared.Overwrite = False,
    dry_run: shared.DryRun = False,
    json: shared.Json = False,
) -> int:
    """Run `largegen embed`; its purpose stands in commands.py.

    Writes one HDF5 file per slide, which the readers of TRIDENT and CLAM open too. Complete files are kept, and an
    interrupted run resumes where it stopped. With --import, embedding files of other projects are converted instead.
    """
    target, h5ad = resolution.target(), common.wants_h5ad(format_)
    if import_:
        if h5ad:
            raise InputError("--import: `format` is for slides only")
        if preview or not options.tissue_filter or options.tissue_threshold is not None:
            raise InputError("--import: `preview` and the tissue filter are for slides only")
        from largegen.embeddings.convert.facts import ImportOptions

        given = ImportOptions(
            encoder=encoder, dataset=dataset, tile_px=tile_px, overlap_px=overlap_px, **asdict(resolution)
        )
        how = {"encoder_weights": encoder_weights, "device": device, "overwrite": overwrite}
        return import_files(slides, out, given, slide, recursive, keep_going, dry_run, json, **how)
    if slide is not None or dataset is not None:
        raise InputError("`slide`, `dataset`: only with --import")
    from largegen.embeddings.anndata_file import write_anndata
    from largegen.runtime.outputs import check_writable
    from largegen.slides.by_products import is_preview
    from largegen.slides.find import find_files
    from largegen.slides.slide import open_slide, slide_name

    paths = find_files(slides, recursive=recursive, by_products=False)
    refuse_same_names(paths)
    if preview and not dry_run:
        for path in paths:
            file = out / f"{slide_name(path)}.png"
            check_writable(file, overwrite or is_preview(file))
    network = kept(_load, encoder or "starter", encoder_weights, device, precision)
    options = replace(options, tile_px=tile_px or options.tile_px, overlap_px=overlap_px or options.overlap_px)

    def one(path: Path) -> dict[str, Any]:
        with open_slide(path, *resolution.source()) as slide:
            if dry_run:
                return _estimate(slide, network, out, target, options)
            done = _embed_one(slide, network, out, target, options, preview, overwrite)
        return done | {"h5ad": str(write_anndata(Path(done["file"]), overwrite))} if h5ad else done

    results = common.one_by_one(paths, one, keep_going, "slide")
    done = [result for result in results if "error" not in result]
    about = {"encoder": network.spec.name, "licence": network.spec.licence, "width": network.dim}
    about |= {"device": str(network.device), "precision": str(network.dtype).removeprefix("torch.")}
    about |= {"settings": target._asdict() | asdict(options), "slides": results}
    lines = [f"{each['file']}: {each['tiles']} tiles x {network.dim}" for each in done]
    common.report(about, "\n".join(lines), json or dry_run)
    return 0 if len(done) == len(results) else 3


def _load(name: str, weights: Path | None, device: str, precision: str) -> "Encoder":
    from largegen.models.encoder import load_encoder
    from largegen.runtime.device import resolve_device, resolve_precision

    found = resolve_device(device)
    dtype = None if precision == "auto" else resolve_precision(precision, found)
    return load_encoder(name, weights, found, dtype)


def _embed_one(
    slide: "Slide",
    encoder: "Encoder",
    out: Path,
    target: "Resolution",
    options: EmbedOptions,
    preview: bool,
    overwrite: bool,
) -> dict[str, Any]:
    from largegen.embeddings.embed import embed_slide, plan_tiles
    from largegen.embeddings.file import EmbeddingFile
    from largegen.slides.tiles import draw_preview

    result: dict[str, Any] = {"slide": str(slide.path)}
    if preview:
        grid, keep = plan_tiles(slide, target.downsample(slide), options)
        result["preview"] = str(out / f"{slide.name}.png")
        draw_preview(slide, grid, keep, Path(result["preview"]))
    path = embed_slide(
        slide,
        encoder,
        out,
        options,
        downsample=target.downsample(slide),
        mag=target.magnification(slide),
        overwrite=overwrite,
        progress=common.show_progress(),
    )
    file = EmbeddingFile(path)
    _, _, rows, columns = file.settings.region
    return result | {"file": str(path), "tiles": file.count, "rows": rows, "columns": columns}


def _estimate(
    slide: "Slide", encoder: "Encoder", out: Path, target: "Resolution", options: EmbedOptions
) -> dict[str, Any]:
    from largegen.embeddings.embed import estimate

    found = estimate(slide, encoder, options, target.downsample(slide))
    return {"slide": str(slide.path), "file": str(out / f"{slide.name}.h5"), **asdict(found)}
