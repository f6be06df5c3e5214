"""Models of the presets' sizes with random weights, which changes no time, and how fast the device multiplies."""

import torch
from diffusers import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from measure import timed
from torch.utils.flop_counter import FlopCounterMode

from largegen.models.autoencoder import Autoencoder
from largegen.models.denoiser import PRESETS, build_denoiser
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.models.model import Model, build_model

EMBEDDING_DIM = 1024
WINDOW = {"published": 64, "starter": 32, "tiny": 16}  # latents


def random_model(preset: str, device: torch.device, levels: int = 1) -> Model:
    """A model of a preset's size, in bf16, with the papers' VQ-f4 autoencoder; of several levels: a Summarizer."""
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
    slides = (TrainingSlide("none", mpp=0.5),) if levels > 1 else ()
    info = ModelInfo(preset, embedding_dim=EMBEDDING_DIM, trained_on=slides)
    conditioner = "Summarizer" if levels > 1 else "PatchConditioner"
    model = build_model(PRESETS[preset], conditioner, autoencoder, EMBEDDING_DIM, tile_px, info, levels)
    for network in (model.unet, model.conditioner):
        network.eval().requires_grad_(False)
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


def compile_denoiser(model: Model, windows: int) -> None:
    """Compile the denoiser for batches of `windows`, its conditions among them; smaller ones are padded."""
    pad_denoiser(model, [windows], torch.compile(model.unet.forward, dynamic=False))


@torch.inference_mode()
def graph_denoiser(model: Model, windows: int) -> None:
    """Record the denoiser's kernels as CUDA graphs, for batches of `windows` and of its halves down to an eighth."""
    sizes, pool = [windows // part for part in (1, 2, 4, 8) if windows % part == 0], torch.cuda.graph_pool_handle()
    graphs = {size: _graph(model, size, pool) for size in sizes}  # the largest first: the others fit in its memory

    def replay(given: torch.Tensor, at: torch.Tensor, tokens: torch.Tensor) -> UNet2DConditionOutput:
        graph, latents, timestep, context, output = graphs[len(given)]
        latents.copy_(given)
        context.copy_(tokens)
        timestep.fill_(int(at))  # a timestep on the CPU: nothing waits
        graph.replay()
        return UNet2DConditionOutput(output.clone())

    pad_denoiser(model, sizes, replay)


def _graph(model: Model, windows: int, pool) -> tuple:
    """A graph of one batch, and the tensors that it reads and writes."""
    forward, window = model.unet.forward, model.window
    latents = torch.zeros(windows, model.autoencoder.channels, window, window, device=model.device, dtype=model.dtype)
    latents = latents.contiguous(memory_format=torch.channels_last)
    timestep = torch.zeros((), device=model.device, dtype=torch.long)
    context = model.null_context().to(model.dtype).repeat(windows, 1, 1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            forward(latents, timestep, context)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        output = forward(latents, timestep, context).sample
    return graph, latents, timestep, context, output


def pad_denoiser(model: Model, sizes: list[int], forward) -> None:
    """Let the denoiser see batches of certain sizes alone, the largest of which none exceeds: others are padded."""

    def call(latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> UNet2DConditionOutput:
        count = len(latents)
        if missing := min(size for size in sizes if size >= count) - count:
            latents, context = (torch.cat([x, x[:1].repeat(missing, *[1] * (x.ndim - 1))]) for x in (latents, context))
        latents = latents.contiguous(memory_format=torch.channels_last)  # another layout would be compiled anew
        return UNet2DConditionOutput(forward(latents, timestep, context).sample[:count])

    model.unet.forward = call
