"""Train the bundled models within a budget of time: autoencoder and encoder, then a denoiser of each kind.

    python examples/starter/train.py --data DIR --out DIR --minutes 9

DIR holds manifest.csv and the images (see README.md). Runs on a GPU or on the CPU; a killed run resumes.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch
from autoencoder import FORM, image_maps, train_autoencoder
from denoiser import Samples, compiled, train_denoiser
from encoder import DIM, TILE_PX, TileEncoder, export_encoder, train_encoder
from maps import Region, read_all, read_manifest, recoloured
from safetensors.torch import load_file

from largegen.models.autoencoder import Autoencoder, load_autoencoder
from largegen.models.denoiser import DenoiserConfig, SummarizerConfig
from largegen.models.encoder import load_encoder
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.models.known_embeddings import know_embeddings
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.local_autoencoder import LocalAutoencoder
from largegen.models.model import Model, build_model
from largegen.models.storage import save_network
from largegen.version import __version__

SHARES = {"shared": 0.25, "tissue": 0.48, "aerial": 0.27}  # of the time; of the shared part:
AUTOENCODER_SHARE = 0.7
ODDS = {"tissue": (0.6, 0.12, 0.1, 0.09, 0.09), "aerial": (0.6, 0.16, 0.14, 0.1)}  # of magnifications
SUMMARIZER = SummarizerConfig(256, 2, 8, 512)
FORMS = {  # of the denoisers: what fits with the other networks into 75 MB
    "tissue": DenoiserConfig((96, 128, 192), (False, False, True), 2, 256, SUMMARIZER, 4, 16, "v_prediction"),
    "aerial": DenoiserConfig((96, 128, 160), (False, False, True), 1, 256, SUMMARIZER, 4, 16, "v_prediction"),
}
RATES = {"cuda": 8e-4}
SMALL_RATE = 3e-4  # elsewhere, for smaller batches
SCALES = {"tissue": {"mpp": 0.5}, "aerial": {"gsd_m": 0.13}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="of training in all, for the stages that run")
    parser.add_argument(
        "--stages", nargs="+", choices=list(SHARES), default=list(SHARES),
        help="tissue and aerial wait for the files of shared, so that all can be started at once, in three processes",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, regions = torch.device(options.device), read_manifest(options.data, "train")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    whole = sum(SHARES[stage] for stage in options.stages)
    for stage in options.stages:
        seconds = options.minutes * 60 * SHARES[stage] / whole
        if stage == "shared":
            train_shared(regions, options.out, seconds, device)
        else:
            own = [region for region in regions if region.kind == stage]
            train_kind(stage, own, options.out, seconds, device)


def train_shared(regions: list[Region], out: Path, seconds: float, device: torch.device) -> None:
    """The autoencoder in OUT/vae and the encoder in OUT/model/encoder, the same for both models."""
    say("reading images")
    images = read_all(regions)
    rng = torch.Generator().manual_seed(1)
    maps = image_maps(2 * regions, images + [recoloured(image.to(device), rng) for image in images], device)
    say("autoencoder")
    autoencoder = train_autoencoder(maps, out / "autoencoder", AUTOENCODER_SHARE * seconds, device)
    (out / "vae").mkdir(exist_ok=True)
    save_network(autoencoder.vae, out / "vae", torch.float16)
    autoencoder = load_autoencoder(out).to(device, torch.bfloat16)
    say("encoder")
    encoder = train_encoder(maps, autoencoder, out / "encoder", (1 - AUTOENCODER_SHARE) * seconds, device)
    subjects = sorted({region.subject for region in regions})
    (out / "model").mkdir(exist_ok=True)
    export_encoder(encoder, out / "model" / "encoder.new", subjects)
    shutil.rmtree(out / "model" / "encoder", ignore_errors=True)  # of an earlier run
    (out / "model" / "encoder.new").rename(out / "model" / "encoder")
    say("shared: done")


def train_kind(kind: str, regions: list[Region], out: Path, seconds: float, device: torch.device) -> None:
    """The model OUT/model/KIND."""
    form, directory = FORMS[kind], out / "model" / "encoder"
    torch.manual_seed(0)
    blank = Autoencoder(LocalAutoencoder(**FORM))
    model = build_model(form, "Summarizer", blank, DIM, TILE_PX, ModelInfo(kind), len(ODDS[kind]))
    model.unet.to(device, memory_format=torch.channels_last)
    model.conditioner.to(device)
    say(f"{kind}: compiling")
    unet = compiled(model, device)
    say(f"{kind}: reading images")
    images = read_all(regions)
    while not directory.exists():
        time.sleep(0.2)
    autoencoder = load_autoencoder(out).to(device, torch.bfloat16)
    encoder = TileEncoder()
    encoder.network.load_state_dict(load_file(directory / "model.safetensors"))
    encoder.to(device, memory_format=torch.channels_last).eval()
    say(f"{kind}: latents and embeddings")
    samples = Samples.kept(out / kind / "samples.pt", images, autoencoder, encoder, ODDS[kind], device)
    say(f"{kind}: {len(samples.embeddings.values)} tiles; training")
    fingerprint = load_encoder(f"local-dir:{directory}", device="cpu").fingerprint
    model = Model(autoencoder, model.unet, model.conditioner, model.scheduler, describe(kind, regions, fingerprint))
    model = train_denoiser(model, unet, samples, out / kind, seconds, RATES.get(device.type, SMALL_RATE))
    latents = samples.latents.draw(64, 32, torch.Generator(device).manual_seed(3), samples.only[0])
    latents = samples.latents.squares(*latents, 32).float()
    model.linear_decoder = fit_linear_decoder(autoencoder.decode, latents)
    model.autoencoder = load_autoencoder(out)  # as it is on disk
    model.known = know_embeddings(samples.plain)
    model.save(out / "model" / kind, torch.float16)
    say(f"{kind}: done")


def describe(kind: str, regions: list[Region], fingerprint: str) -> ModelInfo:
    """What travels with a model's weights."""
    return ModelInfo(
        name=kind,
        largegen_version=__version__,
        encoder="starter",
        encoder_fingerprint=fingerprint,
        encoder_licence="Apache-2.0",
        licence="Apache-2.0",
        embedding_dim=DIM,
        tile_px=TILE_PX,
        trained_on=tuple(TrainingSlide(region.path.stem, **SCALES[kind]) for region in regions),
    )


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
