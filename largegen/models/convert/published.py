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

from diffusers import DDPMScheduler
from torch import Tensor, nn

from largegen.errors import InputError, ModelError
from largegen.models.autoencoder import AUTOENCODERS
from largegen.models.convert import ldm
from largegen.models.convert.ldm import AUTOENCODER, CIN256, CONDITIONER, DENOISER, VQ_F4
from largegen.models.convert.ldm_config import check_config, latents_scale, schedule
from largegen.models.denoiser import DENOISERS, NOISE_SCHEDULE, PREDICTIONS
from largegen.models.directory import is_model
from largegen.models.safe_load import read_checkpoint, weights_of
from largegen.models.storage import load_network
from largegen.runtime.files import not_damaged, read_config

log = logging.getLogger(__name__)

EMA = "model_ema."
CHECKPOINT_SUFFIXES = ((".ckpt",), (".safetensors",), (".pt", ".pth", ".bin"))  # the first that a folder holds count
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
    "scale_factor": "what the latents are multiplied by, which is in the autoencoder's configuration",
}


@dataclass
class Parts:
    """The networks of a model, as far as a source has them."""

    unet: nn.Module | None = None
    vae: nn.Module | None = None
    conditioner: nn.Module | None = None
    scheduler: DDPMScheduler | None = None
    cdm: nn.Module | None = None  # which samples the conditioner's tokens

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Those that there are, by the names of their folders."""
        found = {"vae": self.vae, "unet": self.unet, "conditioner": self.conditioner, "cdm": self.cdm}
        return {name: network for name, network in found.items() if network is not None}


@dataclass
class Report:
    """What became of a source."""

    source: Path
    parts: list[str] = field(default_factory=list)  # of a model that were found: vae, unet, conditioner
    used: int = 0  # tensors of the source that are in the model
    left_out: dict[str, list[str]] = field(default_factory=dict)  # reason -> names of tensors
    ema: bool = False  # the denoiser's weights are the averaged ones


def read_published(path: Path, checkpoint: str | None = None, raw_weights: bool = False) -> tuple[Parts, Report]:
    """Read the networks of a source; every weight of theirs comes from it.

    Args:
        path: A checkpoint, a folder of the published form, or a directory in diffusers' layout.
        checkpoint: Which one, where a folder holds several: its file name.
        raw_weights: Take the denoiser's weights as they were trained, not their average (EMA).

    Returns:
        The networks, and what became of each tensor.

    Raises:
        InputError: Where it is not clear what is meant.
        ModelError: Where a weight is missing or of another shape, or the checkpoint holds something that is not known.
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
    check_config(config, file)
    report, parts = Report(file), Parts(scheduler=schedule(config, weights, file))
    own = {start: {n: v for n, v in weights.items() if n.startswith(start)} for start in (DENOISER, AUTOENCODER)}
    averaged = {name: EMA + name.removeprefix("model.").replace(".", "") for name in own[DENOISER]}
    if own[DENOISER]:
        if any(name.startswith(EMA) for name in weights) and not raw_weights:
            missing = [name for name in averaged.values() if name not in weights]
            if missing:
                raise ModelError(f"{file}: EMA weight {missing[0]!r} is missing; `raw_weights` does without")
            own[DENOISER] = {name: weights[ema] for name, ema in averaged.items()}
            report.ema = True
        parts.unet = ldm.denoiser(config, own[DENOISER], file)
        condition = {n.removeprefix(CONDITIONER): v for n, v in weights.items() if n.startswith(CONDITIONER)}
        parts.conditioner = ldm.conditioner(config, condition, file)
    if own[AUTOENCODER]:
        without_loss = {n: v for n, v in own[AUTOENCODER].items() if not n.startswith(f"{AUTOENCODER}loss.")}
        parts.vae = ldm.autoencoder(config, without_loss, file, latents_scale(config, weights, file))
    if not parts.networks:
        raise ModelError(f"{file}: holds neither a denoiser nor an autoencoder of latent diffusion")
    _account(weights, parts, report, set(averaged if report.ema else averaged.values()))
    return parts, report


def find_checkpoint(path: Path, name: str | None = None) -> tuple[Path, Mapping[str, Any] | None]:
    """Find the weights in a folder, or take a file itself, and the `model.params` of the config beside it.

    Args:
        path: The folder or file.
        name: Of the checkpoint to take, where a folder has several.

    Returns:
        The file, and the config; None where there is none.

    Raises:
        InputError: Where it is not clear which is meant.
    """
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    weights = [path]
    if path.is_dir():
        inside = [path for place in (folder, folder / "checkpoints") if place.is_dir() for path in place.iterdir()]
        kinds = [[path for path in inside if path.suffix.lower() in group] for group in CHECKPOINT_SUFFIXES]
        weights = sorted(next((found for found in kinds if found), []))
    if name is not None:
        weights = [file for file in weights if name in (file.name, file.stem)]
    if not weights:
        suffixes = ", ".join(suffix for group in CHECKPOINT_SUFFIXES for suffix in group)
        raise InputError(f"{path}: holds no checkpoint {name or f'({suffixes}, here or in checkpoints/)'}")
    if len(weights) > 1:
        names = ", ".join(file.name for file in weights)
        raise InputError(f"{path}: holds {len(weights)} checkpoints ({names}); name one with `checkpoint`")
    configs = sorted([*folder.glob("*.yaml"), *folder.glob("configs/*project.yaml")])
    return weights[0], _read_config(configs[-1]) if configs else None


def _read_config(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        not_damaged(error, path)
        raise ModelError(f"{path}: not the config of a latent diffusion model: {type(error).__name__}") from error


def _assumed(weights: Mapping[str, Tensor], file: Path) -> Mapping[str, Any]:
    """Return the config of LDM's cin256-v2, for a checkpoint of its kind without one."""
    conditions = [n for n in weights if n.startswith(CONDITIONER) and not n.startswith(f"{CONDITIONER}embedding.")]
    if conditions:
        raise InputError(f"{file}: has a conditioner, but no config (*.yaml or configs/*-project.yaml) beside it")
    log.info("%s: no config beside it; taken for LDM's cin256-v2", file)
    return CIN256


def _read_diffusers(path: Path) -> tuple[Parts, Report]:
    """Read the denoiser and the autoencoder of a directory in diffusers' layout."""
    if is_model(path):
        raise InputError(f"{path}: is a model directory of largegen already")
    parts = Parts(scheduler=DDPMScheduler(**NOISE_SCHEDULE))
    if (path / "unet").is_dir():
        parts.unet = load_network(path / "unet", DENOISERS).eval()
    vae = next((path / name for name in ("vqvae", "vae") if (path / name).is_dir()), None)
    if vae:
        parts.vae = load_network(vae, AUTOENCODERS).eval()
    if (path / "scheduler" / "scheduler_config.json").is_file():
        parts.scheduler = _scheduler_of(read_config(path / "scheduler" / "scheduler_config.json"), path)
    elif parts.unet is not None:
        log.warning("%s: has no scheduler/; taken for a model that predicts noise, with LDM's noise schedule", path)
    used = sum(len(network.state_dict()) for network in parts.networks.values())
    return parts, Report(path, used=used)


def _scheduler_of(config: Mapping[str, Any], path: Path) -> DDPMScheduler:
    """Take the noise schedule of a scheduler of diffusers.

    Raises:
        ModelError: For a scheduler of another kind of diffusion, and for a schedule without signal at its end.
    """
    kind = str(config.get("_class_name", "DDPMScheduler"))
    if "FlowMatch" in kind or "EDM" in kind or "num_train_timesteps" not in config:
        raise ModelError(f"{path}: its scheduler is {kind}: not diffusion by a noise schedule of steps")
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise ModelError(f"{path}: predicts {config['prediction_type']}, none of {', '.join(PREDICTIONS)}")
    if config.get("rescale_betas_zero_snr"):
        raise ModelError(f"{path}: its noise schedule has no signal left at its end (rescale_betas_zero_snr)")
    return DDPMScheduler.from_config(config, clip_sample=False, thresholding=False)


def _account(weights: Mapping[str, Tensor], parts: Parts, report: Report, others: set[str]) -> None:
    """Record for each tensor of the source whether it is in the model, and if not, why.

    Args:
        weights: The tensors of the source.
        parts: The networks that were made of them.
        report: Where it is recorded.
        others: The denoiser's weights that the other choice between raw and averaged ones would take.

    Raises:
        ModelError: For a tensor that is not known.
    """
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
