"""The published 401 M denoiser on a GPU: seconds and TFLOP/s of sampling, beside the card's own matrix multiply.

Weights and embeddings are random, which changes no time. bf16, channels-last, compiled.
"""

import sys

import torch
from diffusers import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from measure import counted, machine, options, report, run, timed
from torch.utils.flop_counter import FlopCounterMode

from largegen import generate
from largegen.models.autoencoder import Autoencoder
from largegen.models.denoiser import PRESETS, build_denoiser
from largegen.models.model import Model, build_model
from largegen.runtime.device import resolve_device

EMBEDDING_DIM = 1024
WINDOW = {"published": 64, "starter": 32, "tiny": 16}  # latents


def random_model(preset: str, device: torch.device) -> Model:
    """A model of a preset's size with random weights, in bf16; with the papers' VQ-f4 autoencoder."""
    torch.manual_seed(0)
    channels = (128, 256, 512) if preset == "published" else (16, 16, 16)
    vq = VQModel(
        block_out_channels=channels,
        layers_per_block=2,
        latent_channels=3,
        num_vq_embeddings=8192,
        vq_embed_dim=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=min(32, channels[0]),
    )
    autoencoder = Autoencoder(vq.requires_grad_(False))
    tile_px = WINDOW[preset] * autoencoder.factor
    info = {"name": preset, "embedding_dim": EMBEDDING_DIM}
    model = build_model(PRESETS[preset], "PatchConditioner", autoencoder, EMBEDDING_DIM, tile_px, info)
    model.unet.eval().requires_grad_(False)
    return model.to(device, torch.bfloat16)


def flop_per_call(preset: str) -> int:
    """Floating-point operations of the denoiser on one window: two for each multiply-add."""
    config, window = PRESETS[preset], WINDOW[preset]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        unet = build_denoiser(config, 3, window)
        unet(torch.empty(1, 3, window, window), 0, torch.empty(1, 1, config.cross_attention_dim))
    return counter.get_total_flops()


def matmul_rate(device: torch.device) -> float:
    """TFLOP/s of a square bf16 matrix multiplication."""
    side, times = (8192, 50) if device.type == "cuda" else (512, 5)
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(times):
            a @ b

    multiply()
    return 2 * side**3 * times / timed(multiply)[1] / 1e12


def pad_batches(model: Model, windows: int) -> None:
    """Let the compiled denoiser see batches of one size only, so that it is compiled once."""
    compiled = torch.compile(model.unet.forward, dynamic=False)

    def call(latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> UNet2DConditionOutput:
        missing = windows - len(latents)
        if missing:
            latents, context = (torch.cat([x, x[:1].repeat(missing, *[1] * (x.ndim - 1))]) for x in (latents, context))
        latents = latents.contiguous(memory_format=torch.channels_last)  # another layout would be compiled anew
        return UNet2DConditionOutput(compiled(latents, timestep, context).sample[: windows - missing])

    model.unet.forward = call


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.set_defaults(device="cuda")
    parser.add_argument("--preset", default="published", choices=list(PRESETS))
    parser.add_argument("--sizes", "--size", type=int, nargs="+", default=[1024, 2048, 4096], help="px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--stride", type=int, default=0, help="of overlap, in latents (default: half a window)")
    parser.add_argument("--batch-size", type=int, default=32, help="windows at once; guidance doubles them")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here: nothing measured (--device cpu --preset tiny tries the script itself)")
    device = resolve_device(args.device)
    model, flop, rate = random_model(args.preset, device), flop_per_call(args.preset), matmul_rate(device)
    if not args.no_compile:
        pad_batches(model, 2 * args.batch_size)
    rows = []
    for size in args.sizes:
        tiles = -(-size // model.tile_px)
        embeddings = torch.randn(tiles, tiles, EMBEDDING_DIM)
        for windows in ("overlap", "shift"):
            sampling = {"size": size, "windows": windows, "batch_size": args.batch_size, "output": "latent"}
            if windows == "overlap":
                sampling["stride"] = args.stride
            generate(model, embeddings, steps=1, **sampling)  # compiles and warms up
            with counted(model) as calls:
                _, seconds = timed(generate, model, embeddings, steps=args.steps, **sampling)
            speed = calls[0] * flop / seconds / 1e12
            rows.append(
                {
                    "size, px": str(size),
                    "windows": windows,
                    "steps": args.steps,
                    "denoiser calls": calls[0],
                    "seconds": seconds,
                    "TFLOP/s": speed,
                    "of the matrix multiply's": f"{speed / rate:.0%}",
                }
            )
    parameters = sum(p.numel() for p in model.unet.parameters()) / 1e6
    print(f"{parameters:.0f} M parameters, {flop / 1e9:.0f} GFLOP per call; bf16 matrix multiply: {rate:.3g} TFLOP/s\n")
    report(rows, args.json, machine=machine(device), preset=args.preset, matmul_tflops=rate, flop_per_call=flop)


if __name__ == "__main__":
    run(main)
