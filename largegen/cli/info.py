"""`largegen info`: what a file or directory is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.cli.options import Json, SourceMag, SourceMpp, print_json
from largegen.errors import InputError, ModelError
from largegen.runtime.files import read_config

MODEL_INDEX = "model_index.json"


def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="A slide, scene, embedding file or generated image; a model's, autoencoder's or encoder's directory."
        ),
    ],
    source_mpp: SourceMpp = None,
    source_mag: SourceMag = None,
    json: Json = False,
) -> None:
    """Describe an input or output: size, resolution, provenance.

    For a model, autoencoder or encoder: architecture, size of the weights and licence.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    if path.is_dir():
        found = _directory(path)
    elif _is_embedding_file(path):
        found = _embedding_file(path)
    else:
        found = _image(path, source_mpp, source_mag)
    if json:
        print_json(found)
    else:
        _print_text(found)


def _directory(path: Path) -> dict[str, Any]:
    for folder in (path, path / "model"):  # the second is where a run directory keeps what it trained
        if (folder / MODEL_INDEX).is_file():
            return _model(folder)
        config = read_config(folder / "config.json") if (folder / "config.json").is_file() else {}
        if config.get("format") == "largegen-encoder":
            return _encoder(folder)
        for part in (folder, folder / "vae"):
            if (part / "config.json").is_file() and "block_out_channels" in read_config(part / "config.json"):
                return _autoencoder(part)
    raise InputError(
        f"{path}: neither a model directory ({MODEL_INDEX}) nor an autoencoder's or encoder's (config.json)"
    )


def _encoder(path: Path) -> dict[str, Any]:
    from largegen.models.encoder import encoder_spec

    spec = encoder_spec(f"local-dir:{path}")
    return {
        "path": str(path),
        "what": "encoder",
        "architecture": spec.architecture,
        "width": spec.dim,
        "input_px": spec.input_px,
        "licence": spec.licence,
    }


def _autoencoder(path: Path) -> dict[str, Any]:
    from largegen.models.autoencoder import load_autoencoder

    autoencoder = load_autoencoder(path)
    return {
        "path": str(path),
        "what": "autoencoder",
        "class": type(autoencoder.vae).__name__,
        "factor": autoencoder.factor,
        "channels": autoencoder.channels,
        "weights_mb": _weights_mb(path),
    }


def _model(path: Path) -> dict[str, Any]:
    index = read_config(path / MODEL_INDEX)
    about = index.pop("info", {})
    parts = {name: value for name, value in index.items() if not name.startswith("_")}
    missing = [name for name in parts if not (path / name).is_dir()]
    if missing:
        raise ModelError(f"{path}: its part {missing[0]}/ is missing")
    conditioner = path / "conditioner" / "config.json"
    levels = read_config(conditioner).get("levels", 1) if conditioner.is_file() else 1
    found = {"path": str(path), "what": "model", "parts": parts, "levels": levels, "weights_mb": _weights_mb(path)}
    return found | about


def _weights_mb(path: Path) -> float:
    return round(sum(file.stat().st_size for file in path.rglob("*.safetensors")) / 1e6, 1)


def _is_embedding_file(path: Path) -> bool:
    import h5py

    return path.suffix.lower() in (".h5", ".hdf5") or h5py.is_hdf5(path)


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
        found = {
            "path": str(path),
            "what": "generated image" if made_by is not None else slide.kind,
            "width": slide.width,
            "height": slide.height,
            "levels": [f"{width}x{height}" for width, height in slide.levels],
            **resolution,
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
