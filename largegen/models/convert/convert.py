"""Published weights, see published.py, to a model directory that every command takes."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from largegen.errors import InputError, ModelError, OutputError
from largegen.models.autoencoder import Autoencoder, load_autoencoder
from largegen.models.convert.cdm import check_cdm, read_cdm
from largegen.models.convert.published import Parts, Report, read_published
from largegen.models.directory import INDEX, JOB, is_model, read_index, write_model
from largegen.models.encoder import encoder_spec
from largegen.models.info import ModelInfo
from largegen.runtime.files import atomic, read_config
from largegen.runtime.fingerprints import content_digest
from largegen.runtime.hub import hub_folder
from largegen.runtime.lock import lock
from largegen.runtime.outputs import check_new
from largegen.slides.resolution import mpp_of
from largegen.version import __version__

log = logging.getLogger(__name__)

# The encoder of the published models and the magnification of their base, by conditioner, dimension and levels.
TRAINED_WITH = {("Summarizer", 1024, 8): ("uni_v1", 20.0), ("Summarizer", 1024, 4): ("dinov2_vitl14_reg", None)}


def convert(
    source: str | Path,
    out: Path,
    *,
    vae: str | Path | None = None,
    cdm: str | Path | None = None,
    encoder: str | None = None,
    embedding_dim: int | None = None,
    region_encoder: str | None = None,
    mag: float | None = None,
    checkpoint: str | None = None,
    raw_weights: bool = False,
    name: str = "",
    licence: str = "",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Report:
    """Write the model directory of a published checkpoint, atomically.

    A source without a conditioner gives a start for training.

    Args:
        source: A file, a folder, or `hf:ORG/NAME[@REVISION]/FOLDER`.
        out: The model directory.
        vae: Where the autoencoder is, if it is not in the source: another source, or a model's directory.
        cdm: Where the conditioning diffusion model is that samples the model's tokens, if it has one.
        encoder: Name of the encoder that the model was trained with; None for the published one.
        embedding_dim: Width of the embeddings of an `encoder` that nobody here knows, such as an in-house one: the
            model then takes embedding files that carry that name.
        region_encoder: Name of the encoder of regions, for a model that takes them.
        mag: Magnification of its base; None for the published one.
        checkpoint: Which one, where the source has several: its file name.
        raw_weights: Take the denoiser's weights as they were trained, not their average (EMA).
        name: Of the model; "": the directory's.
        licence: Of the weights; "": the encoder's.
        dtype: Of the written weights; None: as they are.
        overwrite: Replace a model directory that exists.
        progress: Show a progress bar, where stderr is a terminal.

    Returns:
        What became of the source's tensors.

    Raises:
        InputError: Where it is not clear what is meant, or what is given does not match.
        ModelError: For a damaged or unknown checkpoint.
        OutputError: Where the directory cannot be written; nothing is left behind.
    """
    with lock(out):
        path, source = _locate(source)
        made_here = not overwrite and _made_from(out, source)
        _check_target(out, overwrite or made_here)
        if path.exists() and out.exists() and path.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{out}: would be replaced, and {path} with it; choose another `out`")
        parts, report = read_published(path, checkpoint, raw_weights)
        if vae is not None:
            parts.vae = _vae_of(_locate(vae)[0])
        if cdm is not None:
            parts.cdm, file = read_cdm(_locate(cdm)[0], raw_weights)
            check_cdm(parts.cdm, parts.unet, parts.conditioner, file)
        _check_finite(parts, path)
        info = _info(parts, source, (encoder, embedding_dim), region_encoder, mag)
        info = replace(info, name=name or out.absolute().name, licence=licence or info.licence)
        report.parts = list(parts.networks)
        job = _job(parts, info, dtype)
        if made_here:
            if _is_whole(out, job):
                log.info("%s: up to date, kept", out)
                return report
            check_new(out)
        sizes = {part: sum(t.nbytes for t in net.state_dict().values()) for part, net in parts.networks.items()}
        quiet = None if progress else True  # None: off where stderr is no terminal
        with (
            atomic(out) as directory,
            tqdm(total=sum(sizes.values()), desc="write", unit="B", unit_scale=True, disable=quiet) as bar,
        ):
            for part in write_model(directory, parts.networks, parts.scheduler, info, dtype, job):
                bar.update(sizes[part])
    return report


def _made_from(out: Path, source: str | Path) -> bool:
    """Tell whether a model was converted from this source, and may so be what this very job makes."""
    return is_model(out) and read_index(out).info.converted_from == str(source)


def _job(parts: Parts, info: ModelInfo, dtype: torch.dtype | None) -> str:
    """Tell apart conversions by all that is written."""
    networks = parts.networks
    about = [
        info.as_dict() | {"largegen_version": ""},
        str(dtype),
        dict(parts.scheduler.config) if parts.scheduler else {},
    ]
    about += [{name: dict(network.config) for name, network in networks.items()}]
    weights = (value for network in networks.values() for value in network.state_dict().values())
    return content_digest([json.dumps(about, default=str, sort_keys=True).encode()], weights)[:32]


def _is_whole(out: Path, job: str) -> bool:
    index = read_config(out / INDEX)
    parts = [name for name in index if not name.startswith("_") and name != "info"]
    return index.get(JOB) == job and all((out / name).is_dir() for name in parts)


def _locate(source: str | Path) -> tuple[Path, str | Path]:
    """Find a source on this machine, and its name, that of the hub's with the revision that was found."""
    return hub_folder(str(source)) if str(source).startswith("hf:") else (Path(source), source)


def _check_target(out: Path, overwrite: bool) -> None:
    """Raise an OutputError where a model directory cannot be put: what is there is no other one, or is to be kept."""
    check_new(out, overwrite)
    if out.exists() and not is_model(out) and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out}: is no model directory of largegen, so it is not replaced; choose another `out`")


def _check_finite(parts: Parts, path: Path) -> None:
    """Raise a ModelError for weights that would make nothing but black images."""
    for part, network in parts.networks.items():
        for name, value in network.state_dict().items():
            if not value.isfinite().all():
                raise ModelError(f"{path}: weight {name!r} of its {part} holds NaN or infinite values")


def _info(
    parts: Parts,
    source: str | Path,
    named: tuple[str | None, int | None],
    region_encoder: str | None,
    mag: float | None,
) -> ModelInfo:
    """Collect what travels with the weights; `named`: the encoder, and the width of one that is not known here.

    Raises:
        InputError: Where the encoder is not known, or does not match.
    """
    encoder, width = named
    if width and not encoder:
        raise InputError("`embedding_dim`: is that of an `encoder`; name it")
    info = ModelInfo("", __version__, converted_from=str(source))
    unet, vae, conditioner = parts.unet, parts.vae, parts.conditioner
    if conditioner is None:
        if encoder or region_encoder:
            raise InputError(f"`encoder`: {source} has no conditioner, so it was trained with none")
        return info
    if unet is None or vae is None:
        raise InputError(f"{source}: has no {'denoiser' if unet is None else 'autoencoder; name one with `vae`'}")
    if unet.config.in_channels != vae.config.latent_channels:
        raise InputError(
            f"`vae`: has {vae.config.latent_channels} channels, but the denoiser {unet.config.in_channels}"
        )
    dim, region_dim = conditioner.config.embedding_dim, conditioner.config.get("region_dim")
    form = (type(conditioner).__name__, dim, conditioner.config.get("levels", 1))
    usual_encoder, usual_mag = TRAINED_WITH.get(form, (None, None))
    trained_with, mag = encoder or usual_encoder, mag or usual_mag
    if trained_with is None:
        raise InputError(
            f"{source}: does not say which encoder its {dim}-dimensional embeddings are of; name it with `encoder`"
        )
    if region_encoder and not region_dim:
        raise InputError("`region_encoder`: this model takes no embeddings of regions")
    specs = {}
    for option, found, wanted in (("encoder", trained_with, dim), ("region_encoder", region_encoder, region_dim)):
        if found:
            specs[option] = spec = encoder_spec(found, width if option == "encoder" else None)
            if spec.dim != wanted:
                raise InputError(
                    f"`{option}` {found}: gives {spec.dim}-dimensional embeddings, but the model takes"
                    f" {wanted}-dimensional ones"
                )
    licence = "; ".join(dict.fromkeys(spec.licence for spec in specs.values()))
    return replace(
        info,
        embedding_dim=dim,
        tile_px=unet.config.sample_size * Autoencoder(vae).factor,
        encoder=specs["encoder"].name,  # the registry's, which embedding files say
        encoder_fingerprint=None,  # the source does not say
        encoder_licence=licence,
        region_encoder=specs["region_encoder"].name if region_encoder else None,
        mpp=mpp_of(mag) if mag else None,
        licence=licence,
    )


def _vae_of(path: Path) -> nn.Module:
    """Read the autoencoder of a source or of a model's directory."""
    if path.is_dir() and any((path / place / "config.json").is_file() for place in ("model/vae", "vae", ".")):
        return load_autoencoder(path).vae
    parts, _ = read_published(path)
    if parts.vae is None:
        raise InputError(f"`vae` {path}: holds no autoencoder")
    return parts.vae
