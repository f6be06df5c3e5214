"""`largegen import`, which is `largegen embed --import` too: embedding files of other projects -> this project's."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.errors import InputError
from largegen.models.encoder_registry import ENCODER_HELP
from largegen.slides.resolution import Resolution

if TYPE_CHECKING:
    from largegen.embeddings.convert.facts import ImportOptions
    from largegen.slides.slide import Slide


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(help="Embedding files (.npy, .npz, .h5, .pkl) or directories of them.", metavar="FILE..."),
    ],
    out: shared.EmbeddingsOut,
    *,
    recursive: shared.Recursive = False,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder that the embeddings were made with. " + ENCODER_HELP, show_default="the file's"),
    ] = None,
    embedding_dim: Annotated[
        int | None, typer.Option(min=1, help="Width of the embeddings of an --encoder of your own, not known here.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Which array, if a file has several: feat_20x, or 3/feat_20x in a list.")
    ] = None,
    slide: Annotated[Path | None, typer.Option(help="The slide that a single file was made from.")] = None,
    tile_px: Annotated[
        int | None, typer.Option(min=16, help="Side of a tile in pixels.", show_default="the file's")
    ] = None,
    overlap_px: Annotated[
        int | None,
        typer.Option("--overlap", min=0, help="Pixels that neighbouring tiles share.", show_default="the file's"),
    ] = None,
    mag: Annotated[
        float | None, typer.Option(help="Magnification of the tiles: 20 is 0.5 um/px.", show_default="the file's")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of the tiles.", show_default="the file's")
    ] = None,
    gsd: Annotated[float | None, typer.Option(help="Metres per pixel of the tiles, of scenes.")] = None,
    source: shared.SourceOptions,
    encoder_weights: shared.EncoderWeights = None,
    device: shared.Device = "auto",
    keep_going: shared.KeepGoing = False,
    overwrite: shared.Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Do nothing; print what would be written as JSON.")
    ] = False,
    json: shared.Json = False,
) -> int:
    """Run `largegen import`; its purpose stands in commands.py.

    Writes each as <name>.h5, as `embed` does. Encoder, tile size and resolution are the file's own where it says them;
    otherwise give them here.
    """
    from largegen.embeddings.convert.facts import ImportOptions

    options = ImportOptions(
        encoder=encoder,
        embedding_dim=embedding_dim,
        dataset=dataset,
        tile_px=tile_px,
        overlap_px=overlap_px,
        mag=mag,
        mpp=mpp,
        gsd=gsd,
        **asdict(source),
    )
    how = {"encoder_weights": encoder_weights, "device": device, "overwrite": overwrite}
    return import_files(files, out, options, slide, recursive, keep_going, dry_run, json, **how)


def import_files(
    files: list[Path],
    out: Path,
    options: "ImportOptions",
    slide: Path | None,
    recursive: bool,
    keep_going: bool,
    dry_run: bool,
    json: bool,
    **how: Any,
) -> int:
    """Import embedding files, of which `slide` is of a single one; how: arguments of `import_embeddings`."""
    from largegen.embeddings.convert.arrays import SUFFIXES
    from largegen.slides.find import find_files
    from largegen.slides.slide import open_slide

    Resolution(options.mpp, options.mag, options.gsd).check()
    source = options.source_mpp, options.source_mag, options.source_gsd
    paths = find_files(files, SUFFIXES, what="embedding files", recursive=recursive)
    if slide is not None and len(paths) > 1:
        raise InputError("`slide`: with one file to import; the others are of other slides")
    refuse_same_names(paths)
    with open_slide(slide, *source) if slide else nullcontext() as opened:
        results = common.one_by_one(
            paths, lambda path: _import_one(path, out, options, opened, how, dry_run), keep_going, "source"
        )
    done = [result for result in results if "error" not in result]
    lines = [f"{each['file']}: {each['tiles']} tiles x {each['width']}, {each['encoder']}" for each in done]
    common.report({"files": results}, "\n".join(lines), json or dry_run)
    return 0 if len(done) == len(results) else 3


def _import_one(
    path: Path, out: Path, options: "ImportOptions", slide: "Slide | None", settings: dict[str, Any], dry_run: bool
) -> dict[str, Any]:
    from largegen.embeddings.convert.convert import import_embeddings, import_path, read_import
    from largegen.embeddings.file import EmbeddingFile

    if dry_run:
        file, found = import_path(path, out, slide), read_import(path, options, slide=slide)
        count, s = len(found.features), found.settings
    else:
        file = import_embeddings(path, out, options, slide=slide, **settings)
        written = EmbeddingFile(file)
        count, s = written.count, written.settings
    return {
        "source": str(path),
        "file": str(file),
        "tiles": count,
        "rows": s.region[2],
        "columns": s.region[3],
        "encoder": s.encoder,
        "licence": s.encoder_licence,
        "width": s.dim,
        "tile_px": s.tile_px,
        "overlap_px": s.overlap_px,
        "downsample": s.downsample,
        "disk_mb": round(count * (s.dim * 4 + 16) / 1e6, 3),
    }


def refuse_same_names(paths: list[Path]) -> None:
    """Raise an InputError where two inputs would be written to one file."""
    from largegen.slides.slide import slide_name

    names: dict[str, Path] = {}
    for path in paths:
        name = slide_name(path)
        if name in names:
            raise InputError(f"{path} and {names[name]}: both would be written to {name}.h5; rename one")
        names[name] = path
