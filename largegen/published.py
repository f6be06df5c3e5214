"""Published checkpoints of both papers, and of latent diffusion, to model directories.

ZoomLDM: `config.yaml` + `weights.ckpt`. Large-Image-Diffusion: `configs/*-project.yaml` + `checkpoints/*.ckpt`. LDM:
`model.ckpt` of a denoiser (cin256-v2) or of an autoencoder (vq-f4), with or without its config. Or a directory in
diffusers' layout.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from tqdm import tqdm

from largegen import __version__, ldm
from largegen.autoencoder import AUTOENCODERS, Autoencoder, load_autoencoder
from largegen.encoders import encoder_spec
from largegen.errors import InputError, ModelError, OutputError
from largegen.foreign import read_checkpoint, weights_of
from largegen.hub import hub_folder
from largegen.ldm import AUTOENCODER, CIN256, CONDITIONER, DENOISER, VQ_F4
from largegen.model import DENOISERS, is_model, write_model
from largegen.networks import load_network
from largegen.runtime import atomic, lock

log = logging.getLogger(__name__)

EMA = "model_ema."
SCHEDULE = (  # the noise schedule's tables, which follow from its betas
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "lvlb_weights"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar"),
)
LEFT_OUT = {  # parts of a checkpoint that a model has no use for, by how their names begin
    "first_stage_model.loss.": "the autoencoder's loss and discriminator",
    "cond_stage_model.embedding.": "LDM's class embedder",
    "model_ema.decay": "bookkeeping of the EMA",
    "model_ema.num_updates": "bookkeeping of the EMA",
    **dict.fromkeys(SCHEDULE, "tables that follow from the noise schedule"),
}
# The encoder of the published models and the magnification of their base, by conditioner, width and levels.
TRAINED_WITH = {("Summarizer", 1024, 8): ("uni_v1", 20.0), ("Summarizer", 1024, 4): ("dinov2_vitl14_reg", None)}


@dataclass
class Parts:
    """The networks of a model, as far as a source has them."""

    unet: nn.Module | None = None
    vae: nn.Module | None = None
    conditioner: nn.Module | None = None
    scheduler: DDPMScheduler | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        found = {"vae": self.vae, "unet": self.unet, "conditioner": self.conditioner}
        return {name: network for name, network in found.items() if network is not None}


@dataclass
class Report:
    """What became of a source."""

    source: Path
    parts: list[str] = field(default_factory=list)  # of a model that were found: vae, unet, conditioner
    used: int = 0  # tensors of the source that are in the model
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> names of tensors
    ema: bool = False  # the denoiser's weights are the averaged ones


def convert(
    source: str | Path,
    out: Path,
    *,
    vae: str | Path | None = None,
    encoder: str | None = None,
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
    """Write the model directory of a published checkpoint, atomically; says what became of its tensors.

    source: a file, a folder, or `hf:ORG/NAME[@REVISION]/FOLDER`. vae: where the autoencoder is, if it is not in the
    source: another source, or a model's directory. encoder, region_encoder, mag: names of the encoders that the model
    was trained with and the magnification of its base, where they do not follow from its form. A source without a
    conditioner gives a start for training.
    Raises InputError, ModelError and OutputError, and leaves nothing behind.
    """
    with lock(out):
        _check_target(out, overwrite)
        path, source = _locate(source)
        if path.exists() and out.exists() and path.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{out}: would be replaced, and {path} with it; choose another --out")
        parts, report = read_published(path, checkpoint, raw_weights)
        if vae is not None:
            parts.vae = _vae_of(_locate(vae)[0])
        _check_finite(parts, path)
        info = _info(parts, source, encoder, region_encoder, mag) | {"name": name or out.absolute().name}
        info["licence"] = licence or info["licence"]
        report.parts = list(parts.networks)
        sizes = {part: sum(t.nbytes for t in net.state_dict().values()) for part, net in parts.networks.items()}
        quiet = None if progress else True  # None: off where stderr is no terminal
        with (
            atomic(out) as directory,
            tqdm(total=sum(sizes.values()), desc="write", unit="B", unit_scale=True, disable=quiet) as bar,
        ):
            for part in write_model(directory, parts.networks, parts.scheduler, info, dtype):
                bar.update(sizes[part])
    return report


def _locate(source: str | Path) -> tuple[Path, str | Path]:
    """Where a source is on this machine, and its name, that of the hub's with the revision that was found."""
    return hub_folder(str(source)) if str(source).startswith("hf:") else (Path(source), source)


def _check_target(out: Path, overwrite: bool) -> None:
    """Raise an OutputError where a model directory cannot be put: what is there is no other one, or is to be kept."""
    if out.exists() and not overwrite:
        raise OutputError(f"{out}: exists already; --overwrite replaces it")
    if out.exists() and not is_model(out) and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out}: is no model directory of largegen, so it is not replaced; choose another --out")


def _check_finite(parts: Parts, path: Path) -> None:
    """Raise a ModelError for weights that would make nothing but black pictures."""
    for part, network in parts.networks.items():
        for name, value in network.state_dict().items():
            if not value.isfinite().all():
                raise ModelError(f"{path}: weight {name!r} of its {part} holds NaN or infinite values")


def _info(
    parts: Parts, source: str | Path, encoder: str | None, region_encoder: str | None, mag: float | None
) -> dict[str, Any]:
    """What travels with the weights. Raises InputError where the encoder is not known, or does not fit."""
    info = {"largegen_version": __version__, "converted_from": str(source), "trained_on": [], "licence": ""}
    unet, vae, conditioner = parts.unet, parts.vae, parts.conditioner
    if conditioner is None:
        if encoder or region_encoder:
            raise InputError(f"--encoder: {source} has no conditioner, so it was trained with none")
        return info
    if unet is None or vae is None:
        raise InputError(f"{source}: has no {'denoiser' if unet is None else 'autoencoder; name one with --vae'}")
    if unet.config.in_channels != vae.config.latent_channels:
        raise InputError(
            f"--vae: has {vae.config.latent_channels} channels, but the denoiser {unet.config.in_channels}"
        )
    width, region_dim = conditioner.config.embedding_dim, conditioner.config.get("region_dim")
    form = (type(conditioner).__name__, width, conditioner.config.get("levels", 1))
    usual_encoder, usual_mag = TRAINED_WITH.get(form, (None, None))
    trained_with, mag = encoder or usual_encoder, mag or usual_mag
    if trained_with is None:
        raise InputError(f"{source}: does not say which encoder its {width} numbers are of; name it with --encoder")
    if region_encoder and not region_dim:
        raise InputError("--region-encoder: this model takes no embeddings of regions")
    specs = {}
    for option, found, wanted in (("encoder", trained_with, width), ("region-encoder", region_encoder, region_dim)):
        if found:
            specs[option] = spec = encoder_spec(found)
            if spec.width != wanted:
                raise InputError(f"--{option} {found}: gives {spec.width} numbers, but the model takes {wanted}")
    licence = "; ".join(dict.fromkeys(spec.licence for spec in specs.values()))
    return info | {
        "embedding_dim": width,
        "tile_px": unet.config.sample_size * Autoencoder(vae).factor,
        "encoder": specs["encoder"].name,  # the registry's, which embedding files say
        "encoder_fingerprint": None,  # the source does not say; any weights of that name are taken
        "encoder_licence": licence,
        "region_encoder": specs["region-encoder"].name if region_encoder else None,
        "mpp": mag and 10 / mag,
        "licence": licence,
    }


def read_published(path: Path, checkpoint: str | None = None, raw_weights: bool = False) -> tuple[Parts, Report]:
    """The networks of a source, every weight of which is filled from it.

    checkpoint: which one, where a folder holds several. raw_weights: take the denoiser's weights as they were trained,
    not their EMA. Raises InputError where it is not clear what is meant; ModelError where a weight is missing or of
    another shape, or where the checkpoint holds something that nobody knows.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    if any((path / part / "config.json").is_file() for part in ("unet", "vae", "vqvae")):
        return _read_diffusers(path)
    file, config = find_checkpoint(path, checkpoint)
    weights = weights_of(read_checkpoint(file), file)
    if not any(name.startswith(DENOISER) for name in weights) and "encoder.conv_in.weight" in weights:
        weights = {AUTOENCODER + name: value for name, value in weights.items()}  # an autoencoder by itself
        config = {"first_stage_config": {"params": config or VQ_F4}}
    config = config or _assumed(weights, file)
    report, parts = Report(file), Parts(scheduler=ldm.schedule(config, weights, file))
    own = {start: {n: v for n, v in weights.items() if n.startswith(start)} for start in (DENOISER, AUTOENCODER)}
    averaged = {name: EMA + name.removeprefix("model.").replace(".", "") for name in own[DENOISER]}
    if own[DENOISER]:
        if any(name.startswith(EMA) for name in weights) and not raw_weights:
            missing = [name for name in averaged.values() if name not in weights]
            if missing:
                raise ModelError(f"{file}: EMA weight {missing[0]!r} is missing; --raw-weights does without")
            own[DENOISER] = {name: weights[ema] for name, ema in averaged.items()}
            report.ema = True
        parts.unet = ldm.denoiser(config, own[DENOISER], file)
        condition = {n.removeprefix(CONDITIONER): v for n, v in weights.items() if n.startswith(CONDITIONER)}
        parts.conditioner = ldm.conditioner(config, condition, file)
    if own[AUTOENCODER]:
        without_loss = {n: v for n, v in own[AUTOENCODER].items() if not n.startswith(f"{AUTOENCODER}loss.")}
        parts.vae = ldm.autoencoder(config, without_loss, file)
    if not parts.networks:
        raise ModelError(f"{file}: holds neither a denoiser nor an autoencoder of latent diffusion")
    _account(weights, parts, report, set(averaged if report.ema else averaged.values()))
    return parts, report


def find_checkpoint(path: Path, name: str | None = None) -> tuple[Path, Mapping[str, Any] | None]:
    """The weights in a folder, or a file itself, and the `model.params` of the config beside it, if there is one.

    name: of the one to take, where a folder has several. Raises InputError where it is not clear which is meant.
    """
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    weights = [path]
    if path.is_dir():
        weights = sorted([*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")])
    if name is not None:
        weights = [file for file in weights if name in (file.name, file.stem)]
    if not weights:
        raise InputError(f"{path}: holds no checkpoint {name or '(*.ckpt or checkpoints/*.ckpt)'}")
    if len(weights) > 1:
        names = ", ".join(file.name for file in weights)
        raise InputError(f"{path}: holds {len(weights)} checkpoints ({names}); name one with --checkpoint")
    configs = sorted([*folder.glob("*.yaml"), *folder.glob("configs/*project.yaml")])
    return weights[0], _read_config(configs[-1]) if configs else None


def _read_config(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        return dict(yaml.safe_load(path.read_text())["model"]["params"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not the config of a latent diffusion model: {type(error).__name__}") from error


def _assumed(weights: Mapping[str, Tensor], file: Path) -> Mapping[str, Any]:
    """The config of LDM's cin256-v2, for a checkpoint of its kind without one."""
    conditions = [n for n in weights if n.startswith(CONDITIONER) and not n.startswith(f"{CONDITIONER}embedding.")]
    if conditions:
        raise InputError(f"{file}: has a conditioner, but no config (*.yaml or configs/*-project.yaml) beside it")
    log.info("%s: no config beside it; taken for LDM's cin256-v2", file)
    return CIN256


def _read_diffusers(path: Path) -> tuple[Parts, Report]:
    """The denoiser and the autoencoder of a directory in diffusers' layout."""
    if is_model(path):
        raise InputError(f"{path}: is a model directory of largegen already")
    parts = Parts(scheduler=ldm.schedule({}, {}, path))
    if (path / "unet").is_dir():
        parts.unet = load_network(path / "unet", DENOISERS).eval()
    vae = next((path / name for name in ("vqvae", "vae") if (path / name).is_dir()), None)
    if vae:
        parts.vae = load_network(vae, AUTOENCODERS).eval()
    if (path / "scheduler" / "scheduler_config.json").is_file():
        parts.scheduler = DDPMScheduler.from_config(DDPMScheduler.load_config(path / "scheduler"), clip_sample=False)
    used = sum(len(network.state_dict()) for network in parts.networks.values())
    return parts, Report(path, used=used)


def _vae_of(path: Path) -> nn.Module:
    """The autoencoder of a source or of a model's directory."""
    if path.is_dir() and any((path / place / "config.json").is_file() for place in ("model/vae", "vae", ".")):
        return load_autoencoder(path).vae
    parts, _ = read_published(path)
    if parts.vae is None:
        raise InputError(f"--vae {path}: holds no autoencoder")
    return parts.vae


def _account(weights: Mapping[str, Tensor], parts: Parts, report: Report, others: set[str]) -> None:
    """Tell for each tensor of the source whether it is in the model, and if not, why. Raises ModelError for one that
    nobody knows. others: the denoiser's weights that another choice between raw and averaged ones would take."""
    kept = {value.data_ptr() for network in parts.networks.values() for value in network.state_dict().values()}
    for name, value in weights.items():
        if value.data_ptr() in kept:
            report.used += 1
            continue
        reason = next((why for start, why in LEFT_OUT.items() if name.startswith(start)), None)
        if name in others:
            reason = "the denoiser's weights before averaging" if report.ema else "the denoiser's averaged weights"
        if reason is None:
            raise ModelError(f"{report.source}: weight {name!r} has no place in the model")
        report.left_out.setdefault(reason, []).append(name)
