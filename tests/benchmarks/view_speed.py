"""How fast the viewer is: the first view of a large slide, tiles a second, and memory.

python -m tests.benchmarks.view_speed [SIDE]

A pyramidal TIFF of SIDE x SIDE px (100,000 by default) is made, all of whose tiles are one and the same JPEG of tissue.
Then, in a process of its own: importing all, opening it and the tiles of a first view through the server; cutting tiles
at random places of all levels; and the most memory that the process ever had.
"""

import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TILES = 600
TILE_PX, TAGS, FIRST = 256, 15, 16  # side of a tile, tags of a directory, where the tile lies
FIRST_LEVELS = 4
ALIKE = int.from_bytes(b"tissue", "little")  # the description of all levels, which says that they belong together


def make(path: Path, side: int) -> None:
    """Write the slide as BigTIFF: the tile, and for each level a directory whose offsets all lead to it."""
    import io

    from PIL import Image

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from helpers.slides import tissue_like

    content = io.BytesIO()
    Image.fromarray(tissue_like(640, 640)[192:448, 192:448]).save(content, "JPEG", quality=75, subsampling="4:2:0")
    tile = content.getvalue()
    tile += bytes(-len(tile) % 8)
    sides = [side >> level for level in range(32) if side >> level >= TILE_PX]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, FIRST + len(tile)) + tile)
        for index, level in enumerate(sides):
            file.write(_directory(level, index > 0, file.tell(), len(tile), index + 1 == len(sides)))


def _directory(side: int, reduced: bool, at: int, tile_bytes: int, last: bool) -> bytes:
    """Write the directory of a level and its arrays; at: where it will lie."""
    count = (-(-side // TILE_PX)) ** 2
    text, short, long, rational, long8 = 2, 3, 4, 5, 16
    start = at + 8 + 20 * TAGS + 8  # of the arrays, after the directory
    offsets, sizes = (start, start + 8 * count) if count > 1 else (FIRST, tile_bytes)
    tags = [
        *((254, long, 1, int(reduced)), (256, long, 1, side), (257, long, 1, side)),
        *(
            (258, short, 3, 8 | 8 << 16 | 8 << 32),
            (259, short, 1, 7),
            (262, short, 1, 6),
            (270, text, 7, ALIKE),
            (277, short, 1, 3),
        ),
        *((282, rational, 1, 40000 | 1 << 32), (283, rational, 1, 40000 | 1 << 32), (296, short, 1, 3)),
        *((322, long, 1, TILE_PX), (323, long, 1, TILE_PX)),
    ]
    tags += [(324, long8, count, offsets), (325, long8, count, sizes)]
    assert len(tags) == TAGS
    packed = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    arrays = struct.pack("<Q", FIRST) * count + struct.pack("<Q", tile_bytes) * count
    following = 0 if last else start + len(arrays)
    return struct.pack("<Q", len(tags)) + packed + struct.pack("<Q", following) + arrays


def measure(path: Path) -> dict[str, float]:
    """Measure in this process, which should have done nothing before."""
    started, processor = time.perf_counter(), time.process_time()
    from starlette.testclient import TestClient

    from largegen.view.scene import open_scene
    from largegen.view.server import make_app

    scene = open_scene(path)
    client = TestClient(make_app([scene]), base_url="http://127.0.0.1")
    assert client.get("/").status_code == 200
    picture = scene.pictures[0]
    for level in range(FIRST_LEVELS):
        cols, rows = picture.grid(level)
        for col in range(min(cols, 6)):
            for row in range(min(rows, 4)):
                assert client.get(f"/0/tiles/0/{level}/{col}_{row}.jpg").status_code == 200
    first, first_processor = time.perf_counter() - started, time.process_time() - processor
    rng = np.random.default_rng(0)
    started, processor = time.perf_counter(), time.process_time()
    for _ in range(TILES):
        level = int(rng.integers(picture.levels))
        cols, rows = picture.grid(level)
        picture.tile(level, int(rng.integers(cols)), int(rng.integers(rows)))
    return {
        "first_view_s": first,
        "first_view_processor_s": first_processor,
        "tiles_per_s": TILES / (time.perf_counter() - started),
        "tiles_per_processor_s": TILES / (time.process_time() - processor),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        side = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
        with tempfile.TemporaryDirectory() as folder:
            slide = Path(folder) / "slide.tif"
            started = time.perf_counter()
            make(slide, side)
            print(f"{side} px, {slide.stat().st_size / 1e9:.2f} GB, made in {time.perf_counter() - started:.0f} s")
            command = [sys.executable, "-m", "tests.benchmarks.view_speed", "--measure", str(slide)]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
