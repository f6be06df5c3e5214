"""Load the small checkpoint of `shared/reference/large-image-patch`, in the papers' own format."""

import pickle
from pathlib import Path

import torch
import yaml
from diffusers import UNet2DConditionModel, VQModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)

from largegen.conditioning import PatchConditioner, Summarizer

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference" / "large-image-patch"


class _Foreign:
    """Stands in for the classes of packages that are not here, which a Lightning checkpoint names."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain containers only; any other class becomes an empty `_Foreign`."""

    ALLOWED = frozenset({("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")})

    def find_class(self, module, name):
        if (module, name) in self.ALLOWED or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return _Foreign


class _Pickle:
    Unpickler = _Unpickler
    load = staticmethod(lambda file, **options: _Unpickler(file, **options).load())


def load_reference() -> tuple[UNet2DConditionModel, VQModel, PatchConditioner]:
    """The reference's denoiser, autoencoder and conditioner, in float32 on the CPU."""
    file = FOLDER / "checkpoints" / "last.ckpt"
    state = torch.load(file, map_location="cpu", pickle_module=_Pickle, weights_only=False)["state_dict"]
    config = yaml.safe_load(next((FOLDER / "configs").glob("*-project.yaml")).read_text())
    parameters = config["model"]["params"]

    unet_config = create_unet_diffusers_config_from_ldm(config, state)
    unet = UNet2DConditionModel(**unet_config)
    unet.load_state_dict(convert_ldm_unet_checkpoint(state, unet_config))

    first_stage = parameters["first_stage_config"]["params"]
    vae_config = create_vae_diffusers_config_from_ldm(config, state)
    vae_config |= {"num_vq_embeddings": first_stage["n_embed"], "vq_embed_dim": first_stage["embed_dim"]}
    vae = VQModel(**vae_config)
    weights = convert_ldm_vae_checkpoint(state, vae_config)
    weights["quantize.embedding.weight"] = state["first_stage_model.quantize.embedding.weight"]
    vae.load_state_dict(weights)

    linear = {name: state[f"cond_stage_model.patch_fc.{name}"] for name in ("weight", "bias")}
    conditioner = PatchConditioner(linear["weight"].shape[1], linear["weight"].shape[0])
    conditioner.projection.load_state_dict(linear)
    return unet.eval(), vae.eval(), conditioner.eval()


SUMMARIZER_NAMES = {
    "pad": "pad_token",
    "level.": "mag_embedding.",
    "projection.": "dim_reduce.",
    "position": "encoder.pos_embedding",
    "encoder.norm.": "encoder.ln.",
    "encoder.layers.": "encoder.layers.encoder_layer_",
    "output.": "final_proj.",
    "norm.": "layer_norm.",
}
BLOCK_NAMES = {"self_attn": "self_attention", "linear1": "mlp.0", "linear2": "mlp.3", "norm1": "ln_1", "norm2": "ln_2"}


def load_summarizer(folder: Path) -> Summarizer:
    """The Summarizer of a ZoomLDM checkpoint: `config.yaml` and `weights.ckpt`."""
    params = yaml.safe_load((folder / "config.yaml").read_text())["model"]["params"]["cond_stage_config"]["params"]
    form = {"hidden_dim": params["hidden_channels"], "layers": params["num_layers"], "mlp_dim": params["vit_mlp_dim"]}
    widths = {"embedding_dim": params["input_channels"], "cross_attention_dim": params["output_channels"]}
    summarizer = Summarizer(**widths, **form, heads=8, levels=params["mag_levels"]).eval()
    state = torch.load(folder / "weights.ckpt", map_location="cpu", weights_only=True)
    found = {}
    for name in summarizer.state_dict():
        ours = next(prefix for prefix in SUMMARIZER_NAMES if name.startswith(prefix))
        theirs = SUMMARIZER_NAMES[ours] + name.removeprefix(ours)
        for part, other in BLOCK_NAMES.items():
            theirs = theirs.replace(f".{part}.", f".{other}.")
        found[name] = state[f"cond_stage_model.{theirs}"]
    summarizer.load_state_dict(found)
    return summarizer
