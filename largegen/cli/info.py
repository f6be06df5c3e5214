"""`largegen info`: what a file or directory is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.cli.common import print_json
from largegen.cli.options import Json, SourceMag, SourceMpp
from largegen.errors import InputError, ModelError

HDF5 = b"\x89HDF\r\n\x1a\n"  # how its files begin


def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="A slide, scene, embedding file or generated image; a model's, autoencoder's or encoder's directory;"
            " or a bundled model's name."
        ),
    ],
    source_mpp: SourceMpp = None,
    source_mag: SourceMag = None,
    json: Json = False,
) -> None:
    """Run `largegen info`; its purpose stands in commands.py.

    For a model, autoencoder or encoder: architecture, size of the weights and licence.
    """
    if not path.is_file():
        from largegen.models.describe import describe_directory

        found = describe_directory(_directory(path))
    elif _is_embedding_file(path):
        found = _embedding_file(path)
    else:
        found = _image(path, source_mpp, source_mag)
    if json:
        print_json(found)
    else:
        _print_text(found)


def _directory(path: Path) -> Path:
    """Return the directory that is meant, as `--model` finds it: by a name, or by its path."""
    from largegen.models.directory import find_model

    try:
        return find_model(str(path))
    except ModelError as error:
        if path.is_dir():  # of an autoencoder or encoder
            return path
        raise InputError(f"{path}: no such file or directory, and no model's name") from error


def _is_embedding_file(path: Path) -> bool:
    if path.suffix.lower() in (".h5", ".hdf5"):
        return True
    with path.open("rb") as file:
        return file.read(len(HDF5)) == HDF5


def _embedding_file(path: Path) -> dict[str, Any]:
    from largegen.embeddings.file import EmbeddingFile

    file = EmbeddingFile(path)
    settings = file.settings.as_dict()
    row, col, rows, cols = settings.pop("region")
    magnifications = {k: v for k, v in file.coords_attrs.items() if k.endswith("_magnification")}
    return {
        "path": str(path),
        "what": "embedding file",
        "tiles": file.count,
        "grid": {"row": row, "column": col, "rows": rows, "columns": cols},
        "complete": True,  # else it is refused
        "largegen_version": file.attrs.get("largegen_version"),
    } | (settings | magnifications)


def _image(path: Path, source_mpp: float | None, source_mag: float | None) -> dict[str, Any]:
    from largegen.slides.image_info import read_provenance
    from largegen.slides.slide import open_slide

    made_by = read_provenance(path)
    with open_slide(path, source_mpp, source_mag) as slide:
        georeference = slide.georeference
        resolution = {"mpp": slide.mpp, "magnification": slide.magnification}
        if slide.kind == "scene":
            resolution = {"gsd_m": slide.gsd_m}
        found: dict[str, Any] = {
            "path": str(path),
            "what": "generated image" if made_by is not None else slide.kind,
            "width": slide.width,
            "height": slide.height,
            "levels": [f"{width}x{height}" for width, height in slide.levels],
            **resolution,
            **({"mpp_from": slide.mpp_from} if slide.mpp_from else {}),
            "missing": [name for name, value in resolution.items() if value is None],
            "vendor": slide.vendor or None,
            "reader": slide.reader,
        }
        if georeference is not None:
            found |= {"crs": georeference.crs, "transform": list(georeference.transform)}
        if made_by is not None:
            found["provenance"] = made_by
        return found


def _print_text(content: dict[str, Any], indent: str = "") -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{key}:")
            _print_text(value, indent + "  ")
            continue
        if isinstance(value, list | tuple):
            value = ", ".join(map(str, value)) or "none"
        typer.echo(f"{indent}{key}: {'unknown' if value in (None, '') else value}")
