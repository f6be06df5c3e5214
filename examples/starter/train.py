"""Train the bundled models within a budget of time: autoencoder, encoder, denoisers, one after the other.

    python examples/starter/train.py --data DIR --out DIR --minutes 9

DIR holds manifest.csv and the images (see README.md). Runs on a GPU or on the CPU; a killed run resumes.
"""

import argparse
import time
from pathlib import Path

import torch
from autoencoder import image_maps, train_autoencoder
from denoiser import Samples, train_denoiser
from encoder import DIM, export_encoder, train_encoder
from maps import Region, read_manifest

from largegen.models.denoiser import DenoiserConfig, SummarizerConfig
from largegen.models.encoder import load_encoder
from largegen.models.linear_decoder import fit_linear_decoder
from largegen.models.model import Model, build_model, find_model, load_model
from largegen.version import __version__

SHARES = {"autoencoder": 0.15, "encoder": 0.06, "tissue": 0.5, "aerial": 0.29}  # of the time
ODDS = {"tissue": (0.6, 0.12, 0.1, 0.09, 0.09), "aerial": (0.6, 0.16, 0.14, 0.1)}  # of magnifications
FORM = DenoiserConfig(  # of the denoisers: what fits beside the other networks into 75 MB for both models
    (96, 128, 192), (False, False, True), 1, 256, SummarizerConfig(256, 2, 8, 512), 4, 16, "v_prediction"
)
RATES = {"tissue": 3e-4, "aerial": 4e-4}
SCALES = {"tissue": {"mpp": 0.5, "gsd_m": None}, "aerial": {"mpp": None, "gsd_m": 0.13}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0, help="of training in all")
    parser.add_argument("--from", dest="start", default="starter", help="model to train on from; none: from nothing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, out, seconds = torch.device(options.device), options.out, options.minutes * 60
    start = None if options.start == "none" else find_model(options.start)
    regions = read_manifest(options.data, "train")

    say("reading images")
    maps = image_maps(regions, device)
    say("autoencoder")
    autoencoder = train_autoencoder(maps, start, out / "autoencoder", SHARES["autoencoder"] * seconds, device)
    autoencoder.to(device, torch.bfloat16)
    say("encoder")
    encoder = train_encoder(maps, autoencoder, start, out / "encoder", SHARES["encoder"] * seconds, device)
    directory = out / "model" / "encoder"
    export_encoder(encoder, directory, sorted({region.subject for region in regions}))
    fingerprint = load_encoder(f"local-dir:{directory}", device="cpu").fingerprint
    del maps
    for kind in ("tissue", "aerial"):
        say(f"{kind}: latents and embeddings")
        own = [region for region in regions if region.kind == kind]
        samples = Samples.kept(out / kind / "samples.pt", own, autoencoder, encoder, ODDS[kind], device)
        say(kind)
        info = describe(kind, own, fingerprint)
        model = build_model(FORM, "Summarizer", autoencoder, DIM, 256, info, len(ODDS[kind]))
        if start:
            take_over(model, load_model(start, "cpu", "fp32"))
        model.unet.to(device, memory_format=torch.channels_last)
        model.conditioner.to(device)
        model = train_denoiser(model, samples, out / kind, SHARES[kind] * seconds, RATES[kind])
        latents = samples.latents.draw(64, 32, torch.Generator(device).manual_seed(3), samples.only[0])
        latents = samples.latents.squares(*latents, 32).float()
        model.linear_decoder = fit_linear_decoder(autoencoder.decode, latents)
        model.save(out / "model" / kind, torch.float16, directory if kind == "tissue" else None)
    say("done")


def take_over(model: Model, former: Model) -> None:
    """Give `model` the weights of another with the same networks; of more levels the first ones."""
    model.unet.load_state_dict(former.unet.state_dict())
    weights = former.conditioner.state_dict()
    weights["level.weight"] = weights["level.weight"][: model.levels]
    model.conditioner.load_state_dict(weights)


def describe(kind: str, regions: list[Region], fingerprint: str) -> dict:
    """What travels with a model's weights."""
    names = [region.path.stem for region in regions]
    return {
        "name": {"tissue": "starter"}.get(kind, kind),
        "largegen_version": __version__,
        "encoder": "starter",
        "encoder_fingerprint": fingerprint,
        "encoder_licence": "Apache-2.0",
        "licence": "Apache-2.0",
        "embedding_dim": DIM,
        "tile_px": 256,
        "trained_on": [{"name": name, **SCALES[kind]} for name in names],
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
