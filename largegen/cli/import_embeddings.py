"""`largegen embed --import`: embedding files of other projects -> this project's."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from largegen.cli import options as shared
from largegen.errors import InputError

if TYPE_CHECKING:
    from largegen.embeddings.convert.facts import ImportOptions


def import_files(
    paths: list[Path],
    out: Path,
    given: "ImportOptions",
    slide: Path | None,
    settings: dict[str, Any],
    keep_going: bool,
    dry_run: bool,
    json: bool,
) -> int:
    """Import the files and report; gives the exit code. `settings` are import_embeddings' options."""
    from largegen.embeddings.convert.arrays import SUFFIXES
    from largegen.slides.find import find_files
    from largegen.slides.slide import open_slide

    paths = find_files(paths, SUFFIXES, what="embedding files")
    if slide is not None and len(paths) > 1:
        raise InputError("--slide: with one file to import; the others are of other slides")
    refuse_same_names(paths)
    source = (given.source_mpp, given.source_mag, given.source_gsd)
    with open_slide(slide, *source) if slide else nullcontext() as opened:
        results = shared.one_by_one(
            paths, lambda path: _import_one(path, out, given, opened, settings, dry_run), keep_going, "source"
        )
    if json or dry_run:
        shared.print_json({"files": results})
    else:
        for result in results:
            if "error" not in result:
                typer.echo(f"{result['file']}: {result['tiles']} tiles x {result['width']}, {result['encoder']}")
    return 3 if any("error" in result for result in results) else 0


def _import_one(
    path: Path, out: Path, given: "ImportOptions", slide: Any, settings: dict[str, Any], dry_run: bool
) -> dict[str, Any]:
    from largegen.embeddings.convert.convert import import_embeddings, import_path, read_import
    from largegen.embeddings.file import EmbeddingFile

    if dry_run:
        file, found = import_path(path, out, slide), read_import(path, given, slide=slide)
        count, s = len(found.features), found.settings
    else:
        file = import_embeddings(path, out, given, slide=slide, **settings)
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
    names: dict[str, Path] = {}
    for path in paths:
        name = path.stem.removesuffix(".ome")
        if name in names:
            raise InputError(f"{path} and {names[name]}: both would be written to {name}.h5; rename one")
        names[name] = path
