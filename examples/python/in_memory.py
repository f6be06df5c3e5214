"""Generate in Python, in memory: an image, the same layout mirrored, and a walk from one image to another.

largegen embed slide.svs --out embeddings
python in_memory.py embeddings/slide.h5 images
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from largegen import generate, load_model, read_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("embeddings", type=Path, help="embedding file, made with the model's encoder")
    parser.add_argument("out", type=Path, help="directory of the images")
    parser.add_argument("--model", default="starter", help="bundled model's name or model directory")
    parser.add_argument("--steps", type=int, default=0, help="of each image; 0: as the model suggests")
    parser.add_argument("--tiles", type=int, nargs=2, default=(2, 2), help="rows and columns: 512 x 512 px by default")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model = load_model(args.model)
    grid = read_grid(args.embeddings)
    rows, cols = grid.tissue.shape
    high, wide = args.tiles
    middle = grid.crop((rows - high) // 2, (cols - wide) // 2, high, wide)

    # The layout comes from the embeddings, the details from the seed.
    image = generate(model, middle, seed=0, steps=args.steps)  # (height, width, 3) uint8
    Image.fromarray(image).save(args.out / "image.png")

    # Embeddings are an array (rows, columns, dim): rearranged, they give another layout.
    mirrored = generate(model, middle.features[:, ::-1].copy(), seed=0, steps=args.steps)
    Image.fromarray(mirrored).save(args.out / "mirrored.png")

    # `latents=` starts from noise of your own, `output="latent"` stops before the autoencoder.
    shape = 1, model.autoencoder.channels, high * model.window, wide * model.window
    start, end = torch.randn(shape), torch.randn(shape)
    for number, angle in enumerate(torch.linspace(0, torch.pi / 2, 3)):
        noise = torch.cos(angle) * start + torch.sin(angle) * end  # unit variance all the way
        canvas = generate(model, middle, latents=noise, steps=args.steps, output="latent")
        between = model.autoencoder.decode(canvas)[0]  # (3, height, width) in [-1, 1]
        pixels = ((between.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0)
        Image.fromarray(pixels.cpu().numpy()).save(args.out / f"walk-{number}.png")


if __name__ == "__main__":
    main()
