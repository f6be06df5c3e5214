"""One image by 1, 2 and 4 processes of one thread each: processor seconds of the busiest one.

A busy machine may measure that. Processes are forked when the model is loaded, so only the work counts: sampling,
exchange, decoding, writing. What they wait for one another is not in these figures, but waiting costs no processor.
"""

import os
import socket
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from measure import machine, options, report, run

from largegen.conditioning.area import ImageArea
from largegen.embeddings.grid import EmbeddingGrid, SourceInfo
from largegen.images.generate_file import generate_file
from largegen.models.model import Model, load_model
from largegen.sampling.settings import Sampling


def random_grid(model: Model, tiles: int) -> EmbeddingGrid:
    """Random embeddings, all tissue."""
    features = torch.randn(tiles, tiles, model.info.embedding_dim, generator=torch.Generator().manual_seed(0))
    return EmbeddingGrid(
        features=features.numpy(),
        tissue=torch.ones(tiles, tiles, dtype=torch.bool).numpy(),
        background=torch.zeros(model.info.embedding_dim).numpy(),
        tile_px=model.tile_px,
        overlap_px=0,
        downsample=1.0,
        origin_xy=(0, 0),
        encoder=model.info.encoder,
        licence=model.info.encoder_licence,
        source=SourceInfo("random", "random.tif", "slide", 4096, 4096, (240, 240, 240), mpp=0.5),
    )


def processor_seconds(model: Model, size: int, world: int, sampling: Sampling, out: Path) -> list[float]:
    """What each process of `world` took."""
    tiles = size // model.tile_px
    grid, area = random_grid(model, tiles), ImageArea(size, size, 0, 0, tiles, tiles, full=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            if world > 1:
                group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
                group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in group.items()})
            try:
                generate_file(model, grid, area, out, sampling)
            except BaseException as error:  # the child must not go on as its parent
                print(f"rank {rank}: {error}", file=sys.stderr)
                os._exit(1)
            os._exit(0)
        children.append(child)
    found = []
    for child in children:
        _, status, usage = os.wait4(child, 0)
        if status:
            sys.exit(f"a process of {world} failed")
        found.append(usage.ru_utime + usage.ru_stime)
    return found


def main() -> None:
    parser = options(__doc__, needs_ref=False)
    parser.add_argument("--size", type=int, default=2048, help="side of the image, px")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes; first 1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model, "cpu", "fp32")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for world in args.worlds:
            out = Path(folder) / f"{world}.tif"
            found = processor_seconds(model, args.size, world, Sampling(steps=args.steps), out)
            first = rows[0]["busiest, s"] if rows else max(found)
            rows.append(
                {
                    "processes": world,
                    "busiest, s": max(found),
                    "all, s": sum(found),
                    "times as fast": first / max(found),
                }
            )
    report(rows, args.json, machine=machine(), size=args.size, steps=args.steps)


if __name__ == "__main__":
    run(main)
