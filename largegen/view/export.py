"""Scenes as one static folder, for any web server or to open from disk: plain images, and pages with all else."""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from largegen.metrics.report.links import INDEX as VIEWER
from largegen.runtime.files import atomic
from largegen.runtime.lock import lock
from largegen.runtime.outputs import check_new
from largegen.runtime.read_ahead import read_ahead
from largegen.view.guard import OPENSEADRAGON_STYLE
from largegen.view.pages import FILES, PAGE, as_json, gallery_page, scene_page
from largegen.view.scene import Scene
from largegen.view.tiles import Picture

WORKERS = 2  # threads that cut tiles
AHEAD = 16  # tiles
INDEX = "index.html"
# From disk a page may load no module and fetch no file: modules stand in the page, which maps their names to `data:`.
NAMES = re.compile(r'(from|import) "\./(\w+\.js)"')


class Place(NamedTuple):
    """One tile of a picture of a scene."""

    scene: int
    picture: Picture
    level: int
    col: int
    row: int


def export(scenes: Sequence[Scene], out: Path, overwrite: bool = False, progress: bool = False) -> int:
    """Write scenes as a folder, whole or not at all: `index.html` is the scene, or a gallery of several.

    Args:
        scenes: what to show; references should be opened with `only_under`, or all of them is written.
        out: the folder.
        overwrite: whether it may be there already.
        progress: show a progress bar.

    Returns:
        The number of tiles.

    Raises:
        OutputError: the folder exists or cannot be written.
        SlideError: a file is damaged.
    """
    check_new(out, overwrite, "export")
    with lock(out), atomic(out) as folder:
        for name, (content, _) in FILES.items():
            if not name.endswith(".js") or name.startswith("vendor/"):
                _write(folder / "page" / name, content)
        for name in ("openseadragon.LICENSE.txt", "openseadragon.json"):
            _write(folder / "page" / "vendor" / name, (PAGE / "vendor" / name).read_bytes())
        several = len(scenes) > 1
        modules, policy = page_modules(), page_policy()
        _write(folder / VIEWER, json.dumps(_pages(scenes), indent=1).encode())
        for number, scene in enumerate(scenes):
            where = (f"{number}/{INDEX}", "../", "", f"../{INDEX}") if several else (INDEX, "", "0/", "")
            name, base, data, back = where
            page = scene_page(scene, base, data, back=back, modules=modules, policy=policy, whole=True)
            _write(folder / name, page.encode(errors="backslashreplace"))
            _write(folder / str(number) / "thumbnail.jpg", scene.pictures[0].thumbnail())
        if several:
            _write(
                folder / INDEX,
                gallery_page(scenes, index=INDEX, policy=policy, whole=True).encode(errors="backslashreplace"),
            )
        return _write_tiles(scenes, folder, progress)


def _pages(scenes: Sequence[Scene]) -> dict[str, str]:
    """Name the page of each file, for reports that link to it; of files that share a name, the first's."""
    several = len(scenes) > 1
    pages = {scene.title: f"{number}/{INDEX}" if several else INDEX for number, scene in reversed([*enumerate(scenes)])}
    return dict(sorted(pages.items()))


def _write_tiles(scenes: Sequence[Scene], folder: Path, progress: bool) -> int:
    places = list(_places(scenes))

    def cut(index: int) -> bytes:
        place = places[index]
        return place.picture.tile(place.level, place.col, place.row)

    bar = tqdm(total=len(places), desc="export", unit="tile", disable=None if progress else True)
    with bar, closing(read_ahead(cut, range(len(places)), WORKERS, AHEAD)) as tiles:
        for place, content in zip(places, tiles, strict=True):
            name = f"{place.scene}/tiles/{place.picture.key}/{place.level}/{place.col}_{place.row}.jpg"
            _write(folder / name, content)
            bar.update()
    return len(places)


def _places(scenes: Sequence[Scene]) -> Iterator[Place]:
    for number, scene in enumerate(scenes):
        for picture in scene.pictures:
            for level in range(picture.levels):
                cols, rows = picture.grid(level)
                for row, col in itertools.product(range(rows), range(cols)):
                    yield Place(number, picture, level, col, row)


def page_modules() -> str:
    """Write the page's modules as an import map and the one that starts it: what a page from disk may run."""
    return f'<script type="importmap">{_import_map()}</script>\n<script type="module">{START}</script>'


START = 'import "largegen/main.js";'


def page_policy() -> str:
    """Say what an exported page may load: what lies in its folder, and the two scripts in it."""
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in (_import_map(), START))
    return (
        f"default-src 'none'; script-src 'self' data: {hashes}; style-src 'self' {OPENSEADRAGON_STYLE};"
        " img-src 'self' data: blob:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _import_map() -> str:
    found = {}
    for name, (content, _) in FILES.items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            text = NAMES.sub(r'\1 "largegen/\2"', content.decode())
            found[f"largegen/{name}"] = "data:text/javascript;base64," + base64.b64encode(text.encode()).decode()
    return as_json({"imports": found})


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
