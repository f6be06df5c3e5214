"""What helps a small denoiser of tissue in a short training: one change at a time, the same windows and steps for all.

    python tests/benchmarks/denoiser_ablation.py --data DIR --tiles 3000 --steps 800 --json FILE

DIR holds manifest.csv and images (see examples/starter). A small denoiser is trained on random tiles of the training
regions at 20x, each under its own embedding, by autoencoder and encoder of a bundled model, and then makes tiles of the
test regions from their embeddings. Fréchet distance of the made tiles' embeddings to the real ones'; share of tiles
whose own embedding is the nearest of all; standard deviation of latents over the real ones'; colour: mean difference of
a tile's mean colour, in grey levels.
"""

import argparse
import copy
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from measure import machine, own_encoder, report, run
from torch import Tensor, nn

from largegen import load_model
from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.per_image.similarity import retrieval
from largegen.models.denoiser import TIMESTEPS, DenoiserConfig, SummarizerConfig
from largegen.models.encoder import Encoder
from largegen.models.info import ModelInfo
from largegen.models.model import Model, build_model
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.patches import sample_patches
from largegen.sampling.settings import Sampling

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "starter"))
from maps import Maps, read_all, read_manifest, recoloured, to_float

FORM = DenoiserConfig(
    (64, 96, 128), (False, False, True), 1, 256, SummarizerConfig(256, 1, 8, 256), 4, 16, "v_prediction"
)
BATCH, RATE, EMA_DECAY, SNR_LIMIT = 16, 5e-4, 0.99, 5.0
SAMPLING = Sampling(steps=20, guidance=1.5)


@dataclass(frozen=True)
class Way:
    """One way to train; the defaults are the plainest."""

    middle: float = 0.0  # of the timesteps are drawn from a bell around the middle
    min_snr: bool = False
    no_signal: bool = False  # left at the last timestep, or as good as none: clean latents must follow from noise
    condition_noise: float = 0.0
    aligned: float = 0.0  # weight of the likeness of inner features with the encoder's
    recoloured: bool = False  # half of the tiles, with embeddings of their own


WAYS = {
    "plain": Way(),
    "half of the timesteps from a bell (logit-normal)": Way(middle=0.5),
    "min-SNR weights": Way(min_snr=True),
    "no signal at the last timestep": Way(no_signal=True),
    "noise on the conditions": Way(condition_noise=0.1),
    "features aligned with the encoder's": Way(aligned=0.5),
    "half of the tiles in other stains": Way(recoloured=True),
}


@dataclass
class Tiles:
    """What a denoiser learns from: latents (N, C, h, w), embeddings (N, D), features (N, F, 8, 8), colours."""

    latents: Tensor
    embeddings: Tensor
    features: Tensor
    colours: Tensor  # (N, 3), in [-1, 1]

    def __getitem__(self, index: Tensor) -> "Tiles":
        return Tiles(*(part[index] for part in vars(self).values()))


@torch.no_grad()
def seen(pixels: Tensor, model: Model, encoder: Encoder) -> Tiles:
    """What autoencoder and encoder make of tiles (N, 3, 256, 256) uint8."""
    inner: list[Tensor] = []
    hook = encoder.net.layer3.register_forward_hook(lambda *given: inner.append(given[2]))
    parts = []
    for some in pixels.split(16):
        embeddings = torch.from_numpy(encoder.encode(some.movedim(1, -1).numpy()))
        floats = to_float(some)
        parts.append((model.autoencoder.encode(floats), embeddings, inner.pop().clone().float(), floats.mean((2, 3))))
    hook.remove()
    return Tiles(*(torch.cat(part) for part in zip(*parts, strict=True)))


def drawn(data: Path, split: str, count: int) -> Tensor:
    """Random tiles (count, 3, 256, 256) uint8 of a split's regions of tissue."""
    maps = Maps(read_all([region for region in read_manifest(data, split) if region.kind == "tissue"]))
    return maps.squares(*maps.draw(count, 256, torch.Generator().manual_seed(0)), 256).contiguous()


def train(way: Way, tiles: Tiles, blank: Model, steps: int) -> Model:
    """Train a new small denoiser; returns the model with its averaged weights."""
    torch.manual_seed(0)
    model = build_model(
        FORM, "Summarizer", blank.autoencoder, blank.info.embedding_dim, blank.tile_px, ModelInfo("small")
    )
    if way.no_signal:
        rescaled = DDPMScheduler.from_config(model.scheduler.config, rescale_betas_zero_snr=True).alphas_cumprod
        left = F.pad(rescaled.double().clamp(min=1e-4), (1, 0), value=1)
        model.scheduler = DDPMScheduler.from_config(
            model.scheduler.config, trained_betas=(1 - left[1:] / left[:-1]).tolist()
        )
    alphas = model.scheduler.alphas_cumprod
    projection = nn.Conv2d(FORM.channels[-1], tiles.features.shape[1], 1)
    inner: list[Tensor] = []
    model.unet.mid_block.register_forward_hook(lambda *given: inner.append(given[2]))
    trained = nn.ModuleList([model.unet, model.conditioner, projection])
    trained.requires_grad_(True)
    averaged = copy.deepcopy(nn.ModuleList([model.unet, model.conditioner])).requires_grad_(False)
    optimizer = torch.optim.AdamW(trained.parameters(), RATE, betas=(0.9, 0.99))
    rng = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / 50 + 0.02) * (1 + math.cos(math.pi * step / steps)) / 2
        some = tiles[torch.randint(len(tiles.latents), (BATCH,), generator=rng)]
        even, bell = torch.rand(BATCH, generator=rng), torch.randn(BATCH, generator=rng).sigmoid()
        at = torch.where(torch.rand(BATCH, generator=rng) < way.middle, bell, even)
        timestep = (at * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)
        noise, a = torch.randn(some.latents.shape, generator=rng), alphas[timestep][:, None, None, None]
        jitter = torch.randn(some.embeddings.shape, generator=rng) * some.embeddings.shape[-1] ** -0.5
        amount = way.condition_noise * torch.rand(BATCH, 1, generator=rng)
        context = model.conditioner(*model.conditioner.arrange((some.embeddings + amount * jitter)[:, None, None], 0))
        drop = torch.rand(BATCH, generator=rng) < 0.1
        context = torch.where(drop[:, None, None], model.conditioner.null(1), context)
        inner.clear()
        with torch.autocast("cpu", torch.bfloat16):
            noisy = a.sqrt() * some.latents + (1 - a).sqrt() * noise
            output = model.unet(noisy, timestep, context, return_dict=False)[0].float()
            found = projection(inner[0])
        errors = (output - (a.sqrt() * noise - (1 - a).sqrt() * some.latents)).square().mean((1, 2, 3))
        if way.min_snr:  # the weight of clean latents' errors, min(SNR, limit), for v-prediction
            snr = (alphas / (1 - alphas))[timestep]
            errors = errors * snr.clamp(max=SNR_LIMIT) / (snr + 1)
        loss = errors.mean()
        if way.aligned:
            loss = loss - way.aligned * F.cosine_similarity(found.float(), some.features, dim=1).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for ours, theirs in zip(averaged.parameters(), trained[:2].parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)
    model.unet, model.conditioner = averaged.eval()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tiles", type=int, default=3000, help="to learn from")
    parser.add_argument("--made", type=int, default=192, help="tiles of test regions")
    parser.add_argument("--steps", type=int, default=800, help=f"of {BATCH} tiles each")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    blank = load_model("tissue", "cpu")
    encoder = own_encoder(blank)
    pixels = drawn(args.data, "train", args.tiles)
    plain, test = (seen(some, blank, encoder) for some in (pixels, drawn(args.data, "test", args.made)))
    rng, rows = torch.Generator().manual_seed(3), []
    stained = torch.stack([recoloured(tile, rng) if i % 2 else tile for i, tile in enumerate(pixels)])
    for name in args.ways:
        way = WAYS[name]
        tiles = seen(stained, blank, encoder) if way.recoloured else plain
        model = train(way, tiles, blank, args.steps)
        latents = sample_patches(model, test.embeddings[:, None, None], 0, resolve_defaults(SAMPLING, model))
        decoded = torch.cat([blank.autoencoder.decode(some).clamp(-1, 1).float() for some in latents.split(16)])
        made = seen(((decoded + 1) * 127.5).round().to(torch.uint8), blank, encoder)
        own, real = made.embeddings.numpy(), test.embeddings.numpy()
        rows.append(
            {
                "way": name,
                "Fréchet distance": frechet_distance_of_features(own, real),
                "retrieved": retrieval(own, real) / len(real),
                "contrast": (latents.std() / test.latents.std()).item(),
                "colour": (made.colours - test.colours).abs().mean().item() * 127.5,
            }
        )
        print(rows[-1], flush=True)
    report(rows, args.json, machine=machine(), **{key: getattr(args, key) for key in ("tiles", "made", "steps")})


if __name__ == "__main__":
    run(main)
