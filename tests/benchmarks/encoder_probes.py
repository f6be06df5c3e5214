"""How good a model is on a slide: autoencoder PSNR, tile retrieval, what the encoder keeps, and an image to look at.

The autoencoder is tried on the blocks that its training left out: those of --held-out and seed 0.
"""

from pathlib import Path

import numpy as np
from measure import machine, options, own_encoder, read_reference, run, table
from metrics import encode_all, psnr, r_squared, ridge, tiles_of
from PIL import Image

from largegen import generate, load_model
from largegen.errors import InputError
from largegen.metrics.per_image.similarity import retrieval
from largegen.models.encoder import Encoder
from largegen.models.model import Model
from largegen.models.pixels import to_images, to_network
from largegen.runtime.files import atomic, write_json
from largegen.sampling.settings import Sampling
from largegen.slides.slide import Slide, open_slide
from largegen.training.crops import SlidePixels, tissue_places
from largegen.training.held_out import HeldOut

FITTED_PART = 0.6  # of a slide's height, from the top: where probes of the encoder are fitted; the rest tests them
PROBE_CROPS = 400  # at most, of each kind and part


def autoencoder_psnr(model: Model, slide: Slide, downsample: float, fraction: float) -> list[dict]:
    """PSNR on the tissue blocks that training left out, and on those that it saw."""
    held_out, pixels = HeldOut(fraction), SlidePixels(slide, downsample)
    size = held_out.block_px
    crops: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for x, y in tissue_places(slide, downsample, size, size, min_tissue=0.25):
        crops[held_out.holds(slide.name, y // size, x // size)].append(pixels.crop(x, y, size))
    if not crops[True]:
        raise InputError(f"{slide.path}: none of its tissue blocks is held out")
    rows = []
    for kept_out, name in ((True, "held out"), (False, "trained on")):
        real = np.stack(crops[kept_out])
        decoded = [model.autoencoder.decode(model.autoencoder.encode(to_network(crop)[None])) for crop in real]
        of_mean_error, mean = psnr(real, np.concatenate([to_images(one) for one in decoded]))
        rows.append(
            {
                "blocks": name,
                "count": len(real),
                "side, px": size,
                "PSNR of the mean error, dB": f"{of_mean_error:.2f}",
                "mean of the blocks' PSNR, dB": f"{mean:.2f}",
            }
        )
    return rows


def probe_crops(slide: Slide, downsample: float, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of tissue from the upper part of a slide and from the lower, which share no pixel."""
    pixels = SlidePixels(slide, downsample)
    border = FITTED_PART * pixels.height
    places = tissue_places(slide, downsample, size_px, size_px // 8, min_tissue=0.25)
    above = [place for place in places if place[1] + size_px <= border]
    below = [place for place in places if place[1] >= border]
    if not above or not below:
        raise InputError(f"{slide.path}: too small to be divided for fitting and testing")
    rng = np.random.default_rng(0)
    chosen = (rng.permutation(part)[:PROBE_CROPS] for part in (above, below))
    return tuple(np.stack([pixels.crop(x, y, size_px) for x, y in part.tolist()]) for part in chosen)


def encoder_keeps(encoder: Encoder, slide: Slide, downsample: float, size_px: int) -> list[dict]:
    """How much of the stain and of the scale a linear map finds in the embedding, on another part of the slide."""
    fine, coarse = (probe_crops(slide, factor * downsample, size_px) for factor in (1, 2))
    fine_codes, coarse_codes = ([encode_all(encoder.encode, part) for part in crops] for crops in (fine, coarse))

    colours = [part.mean((1, 2)) for part in fine]  # (N, 3), mean RGB
    explained = r_squared(ridge(fine_codes[0], colours[0])(fine_codes[1]), colours[1])

    codes = [np.concatenate(parts) for parts in zip(fine_codes, coarse_codes, strict=True)]
    scales = [np.repeat([1.0, -1.0], [len(a), len(b)]) for a, b in zip(fine, coarse, strict=True)]
    right = (ridge(codes[0], scales[0][:, None])(codes[1])[:, 0] > 0) == (scales[1] > 0)
    counts = {"fitted on": len(codes[0]), "tested on": len(codes[1])}
    return [
        {
            "kept in the embedding": "stain: R² of the mean RGB",
            "value": f"{explained:.3f}",
            "fitted on": len(fine[0]),
            "tested on": len(fine[1]),
        },
        {"kept in the embedding": "scale: accuracy, this or half of it", "value": f"{right.mean():.3f}", **counts},
    ]


def main() -> None:
    parser = options(__doc__, size=1024)
    parser.add_argument("--seeds", type=int, default=3, help="images for tile retrieval (default: 3)")
    parser.add_argument("--steps", type=int, default=Sampling.steps)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--held-out", type=float, default=0.1, help="the autoencoder's --validation (default: 0.1)")
    parser.add_argument("--out", type=Path, default=Path("starter_quality.png"), help="reference and first image")
    args = parser.parse_args()
    model = load_model(args.model, args.device, args.precision)
    encoder = own_encoder(model)
    with open_slide(args.ref, source_mag=args.source_mag) as slide:
        blocks = autoencoder_psnr(model, slide, downsample=1.0, fraction=args.held_out)
        kept = encoder_keeps(encoder, slide, slide.downsample_for(mag=args.mag), model.tile_px)

    grid, real = read_reference(args, model)
    real_codes = encode_all(encoder.encode, tiles_of(real, model.tile_px))
    retrieved = []
    for seed in range(args.seeds):
        image = generate(model, grid, size=args.size, steps=args.steps, guidance=args.guidance, seed=seed)
        codes = encode_all(encoder.encode, tiles_of(image, model.tile_px))
        retrieved.append({"seed": seed, "tiles": len(codes), "found their own": retrieval(codes, real_codes)})
        if seed == 0:
            gap = np.full((len(real), 16, 3), 255, np.uint8)
            with atomic(args.out) as temporary:
                Image.fromarray(np.concatenate([real, gap, image], axis=1)).save(temporary)

    results = {"autoencoder": blocks, "encoder": kept, "retrieval": retrieved}
    print("\n\n".join(table(rows) for rows in results.values()))
    print(f"\n{args.out}: the reference, and the image of seed 0")
    if args.json:
        write_json(args.json, {"machine": machine(model.device), **results})


if __name__ == "__main__":
    run(main)
