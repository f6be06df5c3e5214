"""What an encoder keeps of a slide: how much of the stain and of the scale a linear map finds in its embeddings."""

import numpy as np
from measure import machine, options, own_encoder, report, run
from yardsticks import encode_all, r_squared, ridge

from largegen import load_model
from largegen.errors import InputError
from largegen.models.encoder import Encoder
from largegen.slides.slide import Slide, open_slide
from largegen.training.crops import SlidePixels, tissue_places

FITTED_PART = 0.6  # of a slide's height, from the top: where probes of the encoder are fitted; the rest tests them
PROBE_CROPS = 400  # at most, of each kind and part


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
    parser = options(__doc__)
    args = parser.parse_args()
    model = load_model(args.model, args.device)
    with open_slide(args.ref, source_mag=args.source_mag) as slide:
        rows = encoder_keeps(own_encoder(model), slide, slide.downsample_for(mag=args.mag), model.tile_px)
    report(rows, args.json, machine=machine(model.device))


if __name__ == "__main__":
    run(main)
