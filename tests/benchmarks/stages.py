"""Where the time of `largegen generate` goes: import, load, embed, sample, decode and write; processor seconds too."""

import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROWS: list[dict] = []


@contextmanager
def stage(name: str):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ROWS.append({"stage": name, "seconds": round(wall, 2), "processor seconds": round(cpu, 2)})


def main(size: str = "1024", ref: str = "examples/reference.tif") -> None:
    from contextlib import ExitStack
    from tempfile import TemporaryDirectory

    from largegen.runtime.private_api import load_diffusers_sparingly
    from largegen.runtime.threads import wait_asleep

    wait_asleep()  # these two as the commands do
    load_diffusers_sparingly()
    with stage("import torch, diffusers"):
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    with stage("import the rest"):
        from largegen.conditioning.area import parse_size
        from largegen.conditioning.open_reference import ReferenceOptions
        from largegen.images.provenance import image_info
        from largegen.images.write import write_image
        from largegen.models.model import load_model
        from largegen.sampling.generate import decode_bands, resolve_defaults, sample_latents
        from largegen.sampling.settings import Sampling
    with TemporaryDirectory() as folder, ExitStack() as stack:
        with stage("load the model"):
            model = load_model("starter", "cpu", "auto")
            sampling = resolve_defaults(Sampling(), model)
            _ = sampling.distilled and model.student
        with stage("open, find tissue, embed"):
            source = ReferenceOptions(ref=Path(ref), cache=Path(folder)).open(stack, model)
            area = source.area(model, parse_size(size), None)
            grid = source.grid(area)
        with stage(f"sample, {sampling.steps} steps"):
            features = torch.from_numpy(grid.features)
            canvas = sample_latents(model, features, area.height, area.width, sampling)
        with stage("decode"):
            bands = list(decode_bands(model, canvas, sampling))
        with stage("write"):
            write_image(Path(folder) / "a.tif", bands, image_info(model, grid, area, sampling, "", None))
    print(f"{torch.get_num_threads()} threads, {model.dtype}")
    for row in ROWS:
        print(f"{row['stage']:28} {row['seconds']:8} s {row['processor seconds']:8} s of processors")


if __name__ == "__main__":
    main(*sys.argv[1:])
