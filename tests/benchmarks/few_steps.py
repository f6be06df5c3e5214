"""What few steps cost in quality: a model in 50, 20, 12 and 8 steps, and its students, on regions that it never saw.

    python tests/benchmarks/few_steps.py --data DIR --model starter --only breast kidney --seeds 2 --keep DIR

DIR holds manifest.csv and images (see examples/starter). Of every test image the middle is generated from its own
embeddings, by every way with the same seeds. Every figure goes to --keep as soon as it is there: a run that ended
early goes on by the same command, and after a change of weights it measures the ways that these change, no others.
More models after the first are students of it.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from held_out_quality import crop_features, middle, test_images
from measure import decode, machine, own_encoder, run, table
from PIL import Image
from yardsticks import encode_all, tiles_of

from largegen import generate, load_model
from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.features.networks import load_network
from largegen.metrics.per_image.seams import seam_score, window_borders
from largegen.metrics.per_image.similarity import retrieval
from largegen.models.model import Model
from largegen.models.pixels import to_images
from largegen.runtime.files import atomic, write_json
from largegen.runtime.fingerprints import content_digest
from largegen.sampling.cost import count_calls, count_decoded
from largegen.sampling.generate import resolve_defaults
from largegen.sampling.settings import ZOOM_STEPS, Sampling, Zooming
from largegen.sampling.zoom.downsample import guide_psnr
from largegen.sampling.zoom.guide import guide_image
from largegen.sampling.zoom.zoom import zoom_latents

SIZES = 1024, 4096  # px, of the images whose calls are counted
ZOOMED = 1024  # px, of the images that have a guide


@dataclass(frozen=True)
class Way:
    """A model with settings of its sampling, as they are resolved."""

    name: str
    model: Model
    sampling: Sampling

    @property
    def zooms(self) -> bool:
        """Whether it is measured beside a guide, which holds the image together: in 20 steps or fewer."""
        return self.sampling.steps <= ZOOM_STEPS

    @property
    def weights(self) -> str:
        """Tells the way apart: the networks that it uses and its settings."""
        about = replace(self.sampling, batch_size=0, decode_stride=0, decode_margin=0)  # these move no grey level
        return sha256(f"{weights_of(self.model, about.distilled)} {about}".encode()).hexdigest()[:8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["starter"], help="a model with its student, and more of these")
    parser.add_argument("--kind", choices=["tissue", "aerial"], default="tissue")
    parser.add_argument("--only", nargs="+", help="beginnings of the names of the images to generate")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--stride", type=int, default=96, help="px between the distance's crops")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 20, 12, 8], help="of the model itself")
    parser.add_argument("--guidance", type=float, default=Sampling.guidance)
    parser.add_argument("--zoomed", type=int, default=1, help="how many of the images are zoomed to")
    parser.add_argument("--keep", type=Path, required=True, help="directory of what is measured, and of the images")
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which nothing more is begun")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    models = [load_model(name, args.device) for name in args.model]
    ways = list(ways_of(models, args.steps, args.guidance))
    paths = [p for p in test_images(args.data, args.kind) if not args.only or p.name.startswith(tuple(args.only))]
    bench = Bench(args.keep, args.stride, models[0])
    works = [(path, args.size, seed) for seed in range(args.seeds) for path in paths]
    todo = [(bench.image, way, *work) for work in works for way in ways]
    todo += [(bench.zoom, way, path) for path in paths[: args.zoomed] for way in reversed(ways) if way.zooms]
    ends = time.monotonic() + 60 * args.minutes
    for number, (measured, *work) in enumerate(todo):
        if time.monotonic() > ends:
            print(f"the time is up after {number} of {len(todo)}: the same command goes on")
            break
        measured(*work)
    whole = [work for work in works if all((bench.folder / f"{name_of(way, *work)}.json").exists() for way in ways)]
    summary = [summarised(bench, way, ways[0], whole, paths[: args.zoomed]) for way in ways if whole]
    if summary:
        print(f"\n{table(summary)}")
    if args.json:
        write_json(args.json, {"machine": machine(models[0].device), "summary": summary})


def ways_of(models: list[Model], steps: list[int], guidance: float) -> Iterator[Way]:
    """The first model itself in some steps, and every student in those that it is made for."""

    def way(name: str, model: Model, **settings: object) -> Way:
        return Way(name, model, resolve_defaults(Sampling(guidance=guidance, **settings), model))

    for count in steps:
        yield way(f"{count} steps", models[0], steps=count, distilled=False)
    if models[0].tuned:
        found = way("tuned", models[0], distilled=False)
        yield replace(found, name=f"tuned, {found.sampling.steps} steps")
    for model in models:
        if student := model.student_info:
            made_for = {"": [50, 25], "lcm": [2, 4, 8]}.get(student.scheduler, [student.steps])
            for count in made_for:
                yield way(f"student ({student.scheduler or 'guidance'}), {count} steps", model, steps=count)


@cache
def weights_of(model: Model, distilled: bool) -> str:
    """A fingerprint of the networks that make images."""
    networks = model.student.unet if distilled else model.unet, model.conditioner, model.autoencoder.vae
    return content_digest([], [weight for network in networks for weight in network.parameters()])


class Bench:
    """Measures images and zooms, unless `folder` holds what was measured."""

    def __init__(self, folder: Path, stride: int, model: Model):
        self.folder, self.stride, self.model = folder, stride, model
        self.encoder = own_encoder(model)
        self._network = cache(lambda: load_network("vgg16", device=model.device))
        self.real = cache(self._real)
        folder.mkdir(parents=True, exist_ok=True)

    def _real(self, path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The middle of an image, and the grid of its embeddings."""
        image, tile_px = middle(path, size, self.model.tile_px), self.model.tile_px
        codes = encode_all(self.encoder.encode, tiles_of(image, tile_px))
        return image, codes.reshape(image.shape[0] // tile_px, image.shape[1] // tile_px, -1)

    def features(self, name: str, image: np.ndarray) -> np.ndarray:
        """Features of an image's crops, kept under a name."""
        path = self.folder / f"{name}.{self.stride}.npy"
        if not path.exists():
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.save(file, crop_features(image, self._network(), self.stride))
        return np.load(path)

    def kept_features(self, way: Way, path: Path, size: int, seed: int) -> np.ndarray:
        """Features of the crops of an image that was measured."""
        return np.load(self.folder / f"{name_of(way, path, size, seed)}.{self.stride}.npy")

    def image(self, way: Way, path: Path, size: int, seed: int) -> dict:
        """The figures of an image that a way makes."""
        name = name_of(way, path, size, seed)
        if (kept := self.folder / f"{name}.json").exists():
            return json.loads(kept.read_text())
        real, grid = self.real(path, size)
        sampling, codes = replace(way.sampling, seed=seed), grid.reshape(-1, grid.shape[-1])
        model, started = way.model, time.process_time()
        canvas = generate(model, grid, output="latent", **given(sampling))
        sampled = time.process_time()
        made = decode(model, canvas)
        decoded = time.process_time()
        sides = [side // model.factor for side in real.shape[:2]]
        real_features = self.features(f"{path.stem}.{size}.real", real)
        Image.fromarray(made).save(self.folder / f"{name}.png")
        row = {
            "way": way.name,
            "image": path.stem,
            "seed": seed,
            "sampling": sampled - started,
            "calls": count_calls(sampling, model.window, *sides),
            "decoding": decoded - sampled,
            "decoded": count_decoded(sampling, model.window, *sides),
            "distance": frechet_distance_of_features(real_features, self.features(name, made)),
            "retrieved": retrieval(encode_all(self.encoder.encode, tiles_of(made, model.tile_px)), codes),
            "tiles": len(codes),
            "seam": seam(made, sampling, model) / seam(real, sampling, model),
            "grey levels off": float(made.mean() - real.mean()),
        }
        return self.keep(kept, row)

    def zoom(self, way: Way, path: Path) -> dict:
        """How near an image is to its guide."""
        kept = self.folder / f"{name_of(way, path, 'zoom', 0)}.json"
        if kept.exists():
            return json.loads(kept.read_text())
        _, grid = self.real(path, ZOOMED)
        started = time.process_time()
        guide, canvas = zoom_latents(way.model, torch.from_numpy(grid), way.sampling, Zooming())
        seconds = time.process_time() - started
        made, seen = decode(way.model, canvas), to_images(guide_image(way.model, guide))[0]
        Image.fromarray(made).save(kept.with_suffix(".png"))
        row = {"way": way.name, "image": path.stem, "zoom": seconds, "psnr": guide_psnr(seen, made)}
        return self.keep(kept, row)

    def keep(self, path: Path, row: dict) -> dict:
        print(row, flush=True)
        write_json(path, row)
        return row


def name_of(way: Way, path: Path, size: int | str, seed: int) -> str:
    """The name, in the folder, of an image that a way makes."""
    return f"{path.stem}.{size}.{'-'.join(re.findall(r'[0-9a-z]+', way.name))}.{way.weights}.{seed}"


def given(sampling: Sampling) -> dict:
    """Settings of `generate` that resolve to these."""
    return {key: value for key, value in asdict(sampling).items() if key != "batch_size"}


def seam(image: np.ndarray, sampling: Sampling, model: Model) -> float:
    """The seam score where the windows of the last step begin and end."""
    borders = window_borders(image.shape[1], image.shape[0], model.tile_px, model.factor, sampling)
    return seam_score(image, borders.rows, borders.cols, borders.phase)


def summarised(bench: Bench, way: Way, first: Way, works: list[tuple], zoomed: list[Path]) -> dict:
    """Means over images and seeds; seconds are the least for a window times the windows of an image.

    Distances are relative to the first way's of the same image and seed, in the geometric mean, with an interval of
    95 % (normal, of the logarithms); `to the first` is the distance between all images of both ways.
    """
    own, others = ([bench.image(which, *work) for work in works] for which in (way, first))
    logs = np.log([row["distance"] / other["distance"] for row, other in zip(own, others, strict=True)])
    half = 1.96 * logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 1 else np.nan
    found = {"way": way.name, "images": len(own)}
    zooms = [kept for path in zoomed if (kept := bench.folder / f"{name_of(way, path, 'zoom', 0)}.json").exists()]
    call, decoded = (min(row[a] / row[b] for row in own) for a, b in (("sampling", "calls"), ("decoding", "decoded")))
    for size in SIZES:
        calls, windows = counts(way, size)
        found |= {f"calls, {size} px": calls, f"s, {size} px": calls * call + windows * decoded}
    made = (np.concatenate([bench.kept_features(which, *work) for work in works]) for which in (way, first))
    return found | {
        "distance": f"{np.exp(logs.mean()):.2f} ({np.exp(logs.mean() - half):.2f} to {np.exp(logs.mean() + half):.2f})",
        "to the first": frechet_distance_of_features(*made),
        f"retrieved of {sum(row['tiles'] for row in own)}": sum(row["retrieved"] for row in own),
        "seam": float(np.mean([row["seam"] for row in own])),
        "grey levels off": float(np.mean([row["grey levels off"] for row in own])),
        "zoom PSNR, dB": float(np.mean([json.loads(kept.read_text())["psnr"] for kept in zooms])) if zooms else None,
    }


def counts(way: Way, size: int) -> tuple[int, int]:
    """Calls of the denoiser, and windows through the decoder, for a square image."""
    side = size // way.model.factor
    return tuple(count(way.sampling, way.model.window, side, side) for count in (count_calls, count_decoded))


if __name__ == "__main__":
    run(main)
