"""The published way of sampling a large image against largegen's, on the same model and in the same run.

The published way is written here for reference: windows one after another in fp32, every quarter of a window, 50 DDIM
steps, the null condition computed for each window in a call of its own, windows decoded one after another every
quarter. Ours with the same settings must give the same image, to rounding.
"""

import argparse
from statistics import median

import numpy as np
import torch
from diffusers import DDIMScheduler
from measure import counted, decode, machine, options, read_reference, report, run, timed

from largegen import generate
from largegen.conditioning.interpolation import interpolate_grid
from largegen.models.autoencoder import latent_statistics
from largegen.models.model import Model, load_model
from largegen.models.pixels import to_uint8
from largegen.sampling.noise import INITIAL, noise
from largegen.sampling.windows import overlap_windows


class PublishedWay:
    """The reference baseline: one window at a time, nothing shared. features: (R, C, D)."""

    def __init__(self, model: Model, features: torch.Tensor, size_px: int, steps: int, guidance: float):
        self.unet = model.unet.to(memory_format=torch.contiguous_format)
        self.vae = model.autoencoder.vae.to(memory_format=torch.contiguous_format)
        self.mean, self.std = (value.to(model.device) for value in latent_statistics(self.vae))
        self.conditioner, self.features = model.conditioner, features.to(model.device)
        self.factor, self.window, self.channels = model.factor, model.window, model.autoencoder.channels
        self.size, self.steps, self.guidance = size_px // model.factor, steps, guidance
        self.scheduler = DDIMScheduler.from_config(
            model.scheduler.config, timestep_spacing="trailing", clip_sample=False
        )
        self.places = overlap_windows(self.size, self.size, self.window, self.window // 4)
        self.calls = 0

    def eps(self, latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.unet(latents, timestep, context).sample

    @torch.inference_mode()
    def sample(self) -> torch.Tensor:
        """The canvas of latents (1, C, H, W)."""
        self.scheduler.set_timesteps(self.steps)
        self.calls = 0
        canvas = noise(0, INITIAL, 0, 0, self.size, self.size, self.channels).to(self.features.device)
        for timestep in self.scheduler.timesteps:
            total, count = torch.zeros_like(canvas), torch.zeros_like(canvas)
            for top, left in self.places:
                place = (..., slice(top, top + self.window), slice(left, left + self.window))
                y, x = (torch.tensor([v / self.window], device=canvas.device) for v in (top, left))
                embedding = interpolate_grid(self.features, y, x)[:, None, None]
                context = self.conditioner(*self.conditioner.arrange(embedding))
                conditional = self.eps(canvas[place], timestep, context)
                unconditional = self.eps(canvas[place], timestep, self.conditioner.null(1))
                total[place] += unconditional + self.guidance * (conditional - unconditional)
                count[place] += 1
            canvas = self.scheduler.step(total / count, timestep, canvas).prev_sample
        return canvas

    @torch.inference_mode()
    def decode(self, canvas: torch.Tensor) -> np.ndarray:
        """The image (H, W, 3) uint8."""
        f, side = self.factor, self.window * self.factor
        total, weights = torch.zeros(3, self.size * f, self.size * f), torch.zeros(self.size * f, self.size * f)
        d = torch.linspace(-1, 1, side)
        weight = torch.exp(-(d[:, None] ** 2 + d**2) / 0.8**2)
        for top, left in self.places:
            latents = canvas[..., top : top + self.window, left : left + self.window]
            pixels = self.vae.decode(latents * self.std + self.mean).sample[0].cpu()
            place = (..., slice(top * f, top * f + side), slice(left * f, left * f + side))
            total[place] += pixels * weight
            weights[place] += weight
        return to_uint8(total / weights).permute(1, 2, 0).numpy()


def parse() -> argparse.Namespace:
    parser = options(__doc__, size=512)
    parser.add_argument("--steps", type=int, default=50, help="of the published settings (default: 50)")
    parser.add_argument("--shift-steps", type=int, default=20, help="of --windows shift (default: 20)")
    parser.add_argument("--batch-size", type=int, default=0, help="windows at once, of ours (default: auto)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; each runs every way once, in turn")
    return parser.parse_args()


def main() -> None:
    args = parse()
    # Three copies: the baseline changes the memory layout of its own.
    plain, exact = (load_model(args.model, args.device, "fp32") for _ in range(2))
    half = load_model(args.model, args.device, "bf16")
    grid, _ = read_reference(args, exact)
    quarter = exact.window // 4
    settings = {"size": args.size, "guidance": args.guidance, "batch_size": args.batch_size, "output": "latent"}
    same = settings | {"steps": args.steps, "windows": "overlap", "stride": quarter}
    shift = settings | {"steps": args.shift_steps, "windows": "shift"}
    baseline = PublishedWay(plain, torch.from_numpy(grid.features), args.size, args.steps, args.guidance)

    def published() -> tuple[torch.Tensor, np.ndarray, int]:
        canvas = baseline.sample()
        return canvas.cpu(), baseline.decode(canvas), baseline.calls

    def ours(model: Model, sampling: dict, decode_stride: int) -> tuple[torch.Tensor, np.ndarray, int]:
        with counted(model) as calls:
            canvas = generate(model, grid, **sampling)
        return canvas, decode(model, canvas, decode_stride), calls[0]

    ways = {
        f"published way, fp32, {args.steps} steps": published,
        "ours, same settings, fp32": lambda: ours(exact, same, quarter),
        "ours, same settings, bf16": lambda: ours(half, same, quarter),
        f"ours, shift, {args.shift_steps} steps, bf16": lambda: ours(half, shift, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(args.repeats):
        for name, way in ways.items():
            results[name], taken = timed(way)
            seconds[name].append(taken)

    first, *_, last = ways
    rows = []
    for name, (latents, image, calls) in results.items():
        row = {"way": name, "denoiser calls": calls, "seconds": median(seconds[name])}
        row["times faster"] = median(seconds[first]) / row["seconds"]
        difference = (latents - results[first][0]).abs().max() / results[first][0].abs().max()
        levels = np.abs(image.astype(int) - results[first][1])
        compared = name not in (first, last)  # the last way makes another image of the same kind
        row["largest latent difference, relative"] = difference.item() if compared else None
        row["largest grey-level difference"] = int(levels.max()) if compared else None
        rows.append(row)
    print(f"{args.size} px, {args.repeats} round(s), all in one run on {machine(exact.device)}\n")
    report(rows, args.json, machine=machine(exact.device), size=args.size, seconds=seconds)


if __name__ == "__main__":
    run(main)
