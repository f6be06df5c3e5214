"""The pages as text: templates filled in, and the table of the files that they load."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from largegen.version import __version__
from largegen.view.scene import Scene

PAGE = Path(__file__).parent / "page"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
FILES = {  # by address: content and type
    path.relative_to(PAGE).as_posix(): (path.read_bytes(), KINDS[path.suffix])
    for path in sorted(PAGE.rglob("*"))
    if path.suffix in KINDS
}


def scene_page(
    scene: Scene, base: str, data: str, *, back: str = "", whole: bool = False, follow: bool = False, **more: Any
) -> str:
    """Fill in the page of a scene.

    Args:
        scene: it.
        base: address of the folder that holds `page/`, relative to the page's.
        data: likewise of the folder with the scene's tiles and overlays.
        back: likewise of the gallery; "" for none.
        whole: whether the overlays' data stand in the page, so that it has nothing to fetch.
        follow: whether it is that of a run, whose progress the page asks for.
        more: further values for the template.
    """
    page: str = _template("scene.html").render(
        title=scene.title,
        base=base,
        back=back,
        scene=as_json(scene.as_dict(whole) | {"data": data, "follow": follow}),
        **{"version": __version__, "policy": "", "modules": "", **more},
    )
    return page


def gallery_page(scenes: Sequence[Scene], *, whole: bool = False, **more: Any) -> str:
    """Fill in the page that shows several scenes as cards.

    Args:
        scenes: they.
        whole: whether the figures stand in the page, so that it has nothing to fetch.
        more: further values for the template.
    """
    cards = [(scene, scene.figures() if whole else ()) for scene in scenes]
    page: str = _template("gallery.html").render(
        cards=cards, whole=whole, **{"version": __version__, "policy": "", "base": "", "index": "", **more}
    )
    return page


def as_json(content: Any) -> str:
    """Write JSON that may stand inside a page's <script>: no text in it ends that, or begins markup."""
    text = json.dumps(content, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(PAGE)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)
