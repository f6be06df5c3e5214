"""How fast Inception features of a folder of PNG files are: clean-fid's own way and largegen's, on the same network.

Without --inception-weights the network is torchvision's Inception-v3 with random weights, which costs the same. Each
way runs in a process of its own, because some settings are a process's; its network and threads are warm when the
clock starts. Ours is that of `largegen eval`, from the files' names to features and statistics.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import machine, report, run, run_measured, timed
from PIL import Image
from torch import nn

from largegen.metrics.features.extract import extract
from largegen.metrics.features.networks import load_network
from largegen.metrics.request import CropSettings
from largegen.metrics.sets.crops import Crops
from largegen.metrics.sets.images import find_images, resolution_groups
from largegen.runtime.distributed import process_group

BATCH = 32
WEIGHTS = "inception-2015-12-05.pt"  # the name that clean-fid opens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inception-weights", type=Path)
    parser.add_argument("--count", type=int, default=256, help="images (default: 256)")
    parser.add_argument("--size", type=int, default=256, help="their side in px (default: 256)")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts (default: 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        time_way(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.work = Path(folder)
        save_images(args.work / "pictures", args.count, args.size)
        if args.inception_weights:
            (args.work / WEIGHTS).symlink_to(args.inception_weights.absolute())
        else:
            save_stand_in(args.work / WEIGHTS)
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Run every way, in turns, and print the best time of each."""
    seconds = dict.fromkeys(WAYS, float("inf"))
    for _ in range(args.rounds):
        for way in WAYS:
            options = [f"--{name}={getattr(args, name)}" for name in ("work", "count", "device")]
            printed, *_ = run_measured([sys.executable, __file__, "--way", way, *options])
            seconds[way] = min(seconds[way], float(printed.split()[-1]))
    clean_fid = min(time for way, time in seconds.items() if way.startswith("clean-fid"))
    features = {way: np.load(args.work / f"{way}.npy") for way in WAYS}
    reference = features["clean-fid, no workers"]
    rows = [
        {
            "way": way,
            "s": seconds[way],
            "images / s": args.count / seconds[way],
            "times clean-fid's best": clean_fid / seconds[way],
            "largest difference / largest feature": float(np.abs(features[way] - reference).max() / reference.max()),
        }
        for way in WAYS
    ]
    report(rows, args.json, machine=machine(args.device), count=args.count, size=args.size)


def time_way(args: argparse.Namespace) -> None:
    """Print how many seconds one way takes, and save its features as WAY.npy."""
    files = sorted((args.work / "pictures").iterdir())[: args.count]
    extract = WAYS[args.way](args.work / WEIGHTS, args.device)
    extract(files[:BATCH])
    features, seconds = timed(extract, files)
    np.save(args.work / f"{args.way}.npy", features)
    print(seconds)


def clean_fid(weights: Path, device: str, workers: int) -> Callable[[list[Path]], np.ndarray]:
    from cleanfid.fid import get_files_features
    from cleanfid.inception_torchscript import InceptionV3W

    network = InceptionV3W(str(weights.parent), download=False).to(device)
    options = {"num_workers": workers, "batch_size": BATCH, "device": torch.device(device), "verbose": False}
    return lambda files: get_files_features([str(file) for file in files], network, mode="clean", **options)


def largegen(weights: Path, device: str) -> Callable[[list[Path]], np.ndarray]:
    network = load_network("inception", weights, device)
    options = {"processes": process_group(network.device), "batch_size": BATCH, "workers": 2}

    def extract_all(files: list[Path]) -> np.ndarray:
        (level,) = resolution_groups((), find_images(files))
        crops = Crops(level.fake, CropSettings(len(files), level.fake[0].width))
        statistics, _ = extract(network, crops, {"level": level.name}, {"paths": ()}, **options)
        return statistics.features  # in the files' order, and all as long as no more than KEPT

    return extract_all


WAYS = {
    "clean-fid, no workers": lambda weights, device: clean_fid(weights, device, workers=0),
    "clean-fid, 2 workers": lambda weights, device: clean_fid(weights, device, workers=2),
    "largegen": largegen,
}


def save_images(folder: Path, count: int, size: int) -> None:
    """Write `count` PNG files of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:05}.png")


class StandIn(nn.Module):
    """As clean-fid's file: the network without its classifier is the attribute `layers`."""

    def __init__(self) -> None:
        from torchvision.models import inception_v3

        super().__init__()
        torch.manual_seed(0)
        network = inception_v3(weights=None, aux_logits=False, init_weights=False).eval()
        network.fc = nn.Identity()
        self.layers = torch.jit.trace(network, torch.zeros(1, 3, 299, 299))


def save_stand_in(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what clean-fid's network is stored as
        torch.jit.script(StandIn().eval()).save(str(path))


if __name__ == "__main__":
    run(main)
