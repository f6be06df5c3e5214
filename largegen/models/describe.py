"""What a directory holds: a model, a grid prior, an autoencoder or an encoder."""

from pathlib import Path
from typing import Any

from largegen.errors import InputError, ModelError
from largegen.models.directory import INDEX, PRIOR, is_prior
from largegen.models.encoder import DIRECTORY_FORMAT, encoder_spec
from largegen.runtime.files import read_config

PRIOR_KEYS = ("labels", "scales", "text_encoder", "text_licence", "licence", "weights_mb")  # shown of a model's own


def describe_directory(path: Path) -> dict[str, Any]:
    """Describe a directory of networks, or a run directory that holds one.

    Args:
        path: The directory.

    Returns:
        `path` of the networks, `what` they are (model, grid prior, autoencoder or encoder), and what is known of them.

    Raises:
        InputError: It is none of these.
        ModelError: A file is damaged, or a part is missing.
    """
    for folder in (path, path / "model"):  # the second is where a run directory keeps what it trained
        if (folder / INDEX).is_file():
            return _model(folder)
        if is_prior(folder):
            return _prior(folder)
        if _config(folder).get("format") == DIRECTORY_FORMAT:
            return _encoder(folder)
        for part in (folder, folder / "vae"):
            if "block_out_channels" in _config(part):
                return _autoencoder(part)
    raise InputError(f"{path}: neither a model directory ({INDEX}) nor an autoencoder's or encoder's (config.json)")


def _config(folder: Path) -> dict[str, Any]:
    return read_config(folder / "config.json") if (folder / "config.json").is_file() else {}


def _model(path: Path) -> dict[str, Any]:
    index = read_config(path / INDEX)
    about: dict[str, Any] = index.pop("info", {})
    parts = {name: value for name, value in index.items() if not name.startswith("_")}
    missing = [name for name in parts if not (path / name).is_dir()]
    if missing:
        raise ModelError(f"{path}: its part {missing[0]}/ is missing")
    levels = _config(path / "conditioner").get("levels", 1)
    found = {"path": str(path), "what": "model", "parts": parts, "levels": levels, "weights_mb": _weights_mb(path)}
    if is_prior(path / PRIOR):  # with which it needs no reference
        prior = _prior(path / PRIOR)
        found["prior"] = {key: prior[key] for key in PRIOR_KEYS if prior.get(key)}
    return found | about


def _prior(path: Path) -> dict[str, Any]:
    config = {key: value for key, value in _config(path).items() if not key.startswith("_")}
    about: dict[str, Any] = config.pop("info", None) or {}
    return {"path": str(path), "what": "grid prior", **config, "weights_mb": _weights_mb(path)} | about


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


def _encoder(path: Path) -> dict[str, Any]:
    spec = encoder_spec(f"local-dir:{path}")
    return {
        "path": str(path),
        "what": "encoder",
        "architecture": spec.architecture,
        "width": spec.dim,
        "input_px": spec.input_px,
        "licence": spec.licence,
    }


def _weights_mb(path: Path) -> float:
    return round(sum(file.stat().st_size for file in path.rglob("*.safetensors")) / 1e6, 1)
