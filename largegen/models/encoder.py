"""Self-supervised encoders: from a name to a network that turns tiles into embeddings.

Beside the registry's names, any timm model name, `hf-hub:ORG/NAME` (a timm repository on the Hugging Face
hub) and `local-dir:DIR` (a timm directory, or one that `largegen train-encoder` wrote) is an encoder.
"""

import logging
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from largegen.errors import HubError, ModelError
from largegen.models.encoder_registry import IMAGENET_MEAN, IMAGENET_STD, REGISTRY, EncoderSpec
from largegen.runtime.device import dtype_of, resolve_device
from largegen.runtime.files import read_config
from largegen.runtime.fingerprints import network_checksum
from largegen.runtime.hub import hub_file, page_of

if TYPE_CHECKING:
    import numpy as np
    import torch


log = logging.getLogger(__name__)

STARTER_DIR = Path(__file__).parents[1] / "starter" / "encoder"
DIRECTORY_FORMAT = "largegen-encoder"
# Arguments of timm.create_model that name files to load.
LOADS_FILES = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


def encoder_names() -> tuple[str, ...]:
    """List the names that need no path: the bundled `starter` where it is installed, then the registry."""
    return (*(["starter"] if STARTER_DIR.is_dir() else []), *REGISTRY)


def encoder_spec(name: str, dim: int | None = None) -> EncoderSpec:
    """Find out what an encoder is by its name, without its weights.

    Args:
        name: Its name.
        dim: Width of the embeddings of one that is not known here, such as an in-house one: it has a name, and no
            network that tiles could be embedded with.

    Raises:
        ModelError: For a name that is not known, or a directory without a usable config.json.
        HubError: Where the description must come from the hub and cannot.
    """
    known = {spec.source: spec for spec in REGISTRY.values()} | dict(REGISTRY)
    if name in known:
        return known[name]
    kind, _, where = name.partition(":")
    if name == "starter" or (kind == "local-dir" and where):
        return _directory_spec(name, STARTER_DIR if name == "starter" else Path(where))
    if kind == "hf-hub" and where:
        page = page_of(where)
        try:
            file = hub_file(where, "config.json")
        except HubError as error:  # weights alone would not do
            raise HubError(
                f"encoder {name}: the hub does not give its config.json; accept its terms and set HF_TOKEN if it is "
                f"gated, or download the repository from {page} and use local-dir:DIR"
            ) from error
        return _timm_spec(name, read_config(file), name, page)
    try:
        return _timm_name_spec(name)
    except ModelError as error:
        if dim is None:
            raise ModelError(f"{error}; of one of your own say its `embedding_dim`") from error
    log.warning("encoder %s: not known here; known by its name and %d dimensions alone", name, dim)
    licence = "unknown; see its makers"
    return EncoderSpec(name, dim, precision="fp32", licence=licence, page="", source="", architecture="")


def _directory_spec(name: str, directory: Path) -> EncoderSpec:
    if not (directory / "config.json").is_file():
        raise ModelError(f"encoder {name}: {directory} holds no config.json")
    config = read_config(directory / "config.json")
    source = f"local-dir:{directory}"
    if config.get("format") != DIRECTORY_FORMAT:
        return _timm_spec(name, config, source, str(directory))
    try:
        return EncoderSpec(
            name=name,
            dim=int(config["width"]),
            input_px=int(config["input_px"]),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            precision="fp32",
            licence=str(config["licence"]),
            page=str(directory),
            source=source,
            architecture=str(config["architecture"]),
            timm_kwargs={"num_classes": int(config["width"]), **config.get("timm_kwargs", {})},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{directory / 'config.json'}: not an encoder's configuration: {error!r}") from error


def _timm_spec(name: str, config: dict[str, Any], source: str, page: str) -> EncoderSpec:
    """Make the spec of a timm repository, from its config.json (older ones keep the pretrained_cfg at the top)."""
    pretrained = config.get("pretrained_cfg", config)
    if not isinstance(config.get("architecture"), str):
        raise ModelError(f"encoder {name}: its config.json is not a timm model's (no `architecture`)")
    spec = EncoderSpec(
        name=name,
        dim=0,
        input_px=int(pretrained.get("input_size", (3, 224, 224))[-1]),
        mean=tuple(pretrained.get("mean", IMAGENET_MEAN)),
        std=tuple(pretrained.get("std", IMAGENET_STD)),
        precision="fp32",
        licence=str(pretrained.get("license") or config.get("license") or "unknown; see its page"),
        page=page,
        source=source,
        architecture=config["architecture"],
        timm_kwargs=(config.get("model_args") or {}) | {"num_classes": 0},
    )
    net = _build(spec, device="meta")
    return replace(spec, dim=int(getattr(net, "head_hidden_size", None) or net.num_features))


def _timm_name_spec(name: str) -> EncoderSpec:
    import timm

    try:
        found = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except (RuntimeError, ValueError, KeyError):
        found = None
    if found is None:
        raise ModelError(
            f"encoder {name!r}: unknown; use one of {', '.join(encoder_names())}, a timm model name, "
            "hf-hub:ORG/NAME or local-dir:DIR"
        )
    repo = found.hf_hub_id or ""
    config = {"architecture": found.architecture, "pretrained_cfg": found.to_dict(remove_null=True)}
    return _timm_spec(name, config, f"hf-hub:{repo}", page_of(repo) if repo else "")


def _build(spec: EncoderSpec, device: str = "cpu") -> "torch.nn.Module":
    """Make the network with random weights; `device="meta"` gives its shapes only, at once."""
    import timm
    import torch

    kwargs = {"num_classes": 0} | dict(spec.timm_kwargs)
    loading = sorted(LOADS_FILES & kwargs.keys()) + [spec.architecture] * (":" in spec.architecture)
    if loading:
        raise ModelError(f"encoder {spec.name}: its configuration has timm load another file ({loading[0]}); not done")
    if kwargs.get("mlp_layer") == "SwiGLUPacked":
        kwargs["mlp_layer"] = timm.layers.SwiGLUPacked
    if kwargs.get("embed_layer") == "ConvStem":
        from largegen.models.ctranspath import ConvStem

        kwargs["embed_layer"] = ConvStem
    try:
        with torch.device(device):
            return timm.create_model(spec.architecture, pretrained=False, **kwargs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"encoder {spec.name}: timm cannot build {spec.architecture}: {error}") from error


def load_encoder(
    name: str | EncoderSpec = "starter",
    weights: Path | None = None,
    device: "str | torch.device" = "auto",
    dtype: "torch.dtype | None" = None,
    parameter: str = "encoder_weights",
) -> "Encoder":
    """Load an encoder with its published weights, or those of a file.

    Args:
        name: Its name, or its description.
        weights: File of the weights; None: those that its source has.
        device: As resolve_device takes it.
        dtype: What it computes in; None: the spec's precision, on a CPU fp32.
        parameter: The caller's parameter for `weights`, which errors tell the user to give.

    Raises:
        ModelError: For an unknown name, and for weights that do not match to the last key and shape.
        HubError: Where the hub does not give the weights.
    """
    import torch

    from largegen.models.timm_weights import load_weights

    spec = name if isinstance(name, EncoderSpec) else encoder_spec(name)
    device = device if isinstance(device, torch.device) else resolve_device(device)
    dtype = dtype or _dtype(spec, device)
    path = Path(weights) if weights else _weight_file(spec, parameter)
    net = _build(spec)
    load_weights(net, path, spec.dino_positions)
    encoder = Encoder(spec, net.eval().requires_grad_(False), device, dtype)
    _ = encoder.fingerprint  # of the weights before they are cast, so that every precision has the same
    net.to(device, dtype)
    return encoder


def _dtype(spec: EncoderSpec, device: "torch.device") -> "torch.dtype":
    import torch

    return torch.float32 if device.type == "cpu" else dtype_of(spec.precision)


class Encoder:
    """A network that turns tiles into embeddings."""

    def __init__(self, spec: EncoderSpec, net: "torch.nn.Module", device: "torch.device", dtype: "torch.dtype"):
        self.spec, self.net, self.device, self.dtype = spec, net, device, dtype
        self.dim = spec.dim

    @cached_property
    def fingerprint(self) -> str:
        """A short text that differs for other weights: a checksum over a sample of each."""
        return network_checksum(self.net)

    def encode(self, images: "np.ndarray") -> "np.ndarray":
        """Embed tiles: (B, H, W, 3) uint8 => (B, D) float32."""
        import torch

        with torch.inference_mode():
            # BHWC uint8 [0, 255] => BCHW [0, 1] => normalised
            x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 255
            size = (self.spec.input_px, self.spec.input_px)
            if x.shape[-2:] != size:
                x = torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
            mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (self.spec.mean, self.spec.std))
            return self.net(((x - mean) / std).to(self.dtype)).to(torch.float32).cpu().numpy()


class EncoderOnDemand:
    """An encoder whose weights are loaded when there are tiles to embed: for embeddings that are there, none are."""

    def __init__(self, name: str, fingerprint: str, weights: Path | None, device: "torch.device"):
        """Find out what the encoder is; raises as `encoder_spec` does.

        Args:
            name: As `encoder_spec` takes it.
            fingerprint: That of the weights which are wanted.
            weights: As `load_encoder` takes them.
            device: Of the network.
        """
        self.spec, self.fingerprint = encoder_spec(name), fingerprint
        self.dim, self.dtype = self.spec.dim, _dtype(self.spec, device)
        self._load = cache(lambda: load_encoder(self.spec, weights, device))

    def encode(self, images: "np.ndarray") -> "np.ndarray":
        """Embed tiles: see `Encoder.encode`.

        Raises:
            ModelError: Also where the weights are not those that are wanted.
        """
        encoder = self._load()
        if encoder.fingerprint != self.fingerprint:
            raise ModelError(
                f"encoder {self.spec.name}: these weights ({encoder.fingerprint}) are not those that the model was"
                f" trained with ({self.fingerprint})"
            )
        return encoder.encode(images)


def _weight_file(spec: EncoderSpec, parameter: str) -> Path:
    """Find the file of the published weights; the hub's client downloads it once, into its own cache."""
    kind, _, where = spec.source.partition(":")
    if kind == "file":
        raise ModelError(
            f"encoder {spec.name}: no hub has its weights; download {where} from {spec.page} and give `{parameter}`"
            " FILE"
        )
    names = ("model.safetensors", "pytorch_model.bin")
    if kind == "local-dir":
        for name in names:
            if (Path(where) / name).is_file():
                return Path(where) / name
        raise ModelError(f"encoder {spec.name}: {where} holds no {names[0]}")
    if not where:
        raise HubError(f"encoder {spec.name}: timm has no weights for it; give `{parameter}` FILE")
    return hub_file(where, *names, option=f"`{parameter}`")
