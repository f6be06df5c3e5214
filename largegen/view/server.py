"""A small server for this machine alone: pages, tiles and overlays of the scenes that it was given, and nothing else.

No part of an address reaches the disk: pictures and overlays are found by number among those that were named when it
started, files of the page in a table read at the start.
"""

import asyncio
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from largegen.errors import InputError, LargegenError, OutputError
from largegen.runtime.say import say_once
from largegen.view.follow import Run
from largegen.view.guard import Guard
from largegen.view.pages import FILES, gallery_page, scene_page
from largegen.view.scene import Scene

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

CUTTERS = 4  # threads that cut tiles
MOST_WAITING = 256  # tiles that are asked for and not yet cut; further ones are refused
HOST = "127.0.0.1"
NO_SERVER = "`largegen view` needs starlette and uvicorn: pip install 'largegen[view]'"


class Pages:
    """Answers to the addresses of some scenes, or of a run that is followed."""

    def __init__(self, scenes: Sequence[Scene], run: Run | None = None) -> None:
        self._scenes, self._run = tuple(scenes), run
        self._cutters = ThreadPoolExecutor(CUTTERS, "tiles")
        self._thinkers = ThreadPoolExecutor(1, "overlays")  # one at a time: they take all cores
        self._waiting = 0

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The scenes, or what the last look at the run saw."""
        return (self._run.scene(),) if self._run else self._scenes

    async def index(self, request: "Request") -> "Response":
        """Give the page of the only scene, else the gallery."""
        if self._run is not None:
            await asyncio.get_running_loop().run_in_executor(self._thinkers, self._run.look)
        if len(self.scenes) == 1:
            return self._html(scene_page(self.scenes[0], "", "0/", follow=self._run is not None))
        return self._html(gallery_page(self.scenes))

    async def scene(self, request: "Request") -> "Response":
        """Give the page of one scene of several."""
        found = self._scene(request)
        return self._html(scene_page(found, "../", "", back="../" if len(self.scenes) > 1 else ""))

    async def file(self, request: "Request") -> "Response":
        """Give a file of the page."""
        from starlette.responses import Response

        name = request.path_params["name"]
        if name not in FILES:
            raise self._missing()
        content, kind = FILES[name]
        return Response(content, media_type=kind)

    async def tile(self, request: "Request") -> "Response":
        """Give a tile."""
        picture = self._scene(request).picture(request.path_params["picture"])
        level, col, row = (request.path_params[name] for name in ("level", "col", "row"))
        if picture is None or not picture.has(level, col, row):
            raise self._missing()
        return await self._jpeg(lambda: picture.tile(level, col, row))

    async def thumbnail(self, request: "Request") -> "Response":
        """Give a small image of a scene's first picture."""
        pictures = self._scene(request).pictures
        if not pictures:
            raise self._missing()
        return await self._jpeg(pictures[0].thumbnail)

    async def overlay(self, request: "Request") -> "Response":
        """Give the data of an overlay, which are computed if need be."""
        from starlette.responses import JSONResponse

        overlay = self._scene(request).overlay(request.path_params["overlay"])
        if overlay is None:
            raise self._missing()
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(self._thinkers, overlay.data))

    async def progress(self, request: "Request") -> "Response":
        """Give how far the run is."""
        from starlette.responses import JSONResponse

        if self._run is None:
            raise self._missing()
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(self._thinkers, self._run.look))

    async def figures(self, request: "Request") -> "Response":
        """Give the figures of a scene, which are computed if need be."""
        from starlette.responses import JSONResponse

        scene = self._scene(request)
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(self._thinkers, scene.figures))

    async def _jpeg(self, cut: Callable[[], bytes]) -> "Response":
        from starlette.exceptions import HTTPException
        from starlette.responses import Response

        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, headers={"retry-after": "1"})
        self._waiting += 1
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._cutters, cut)
        except LargegenError as error:
            say_once(str(error))
            raise HTTPException(500, "this part of the file cannot be read") from error
        finally:
            self._waiting -= 1
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    def _scene(self, request: "Request") -> Scene:
        number = int(request.path_params["scene"])
        if number >= len(self.scenes):
            raise self._missing()
        return self.scenes[number]

    def _html(self, text: str) -> "Response":
        from starlette.responses import HTMLResponse

        return HTMLResponse(text)

    def _missing(self) -> Exception:
        from starlette.exceptions import HTTPException

        return HTTPException(404)


def make_app(scenes: Sequence[Scene], run: Run | None = None) -> Any:
    """Make the ASGI application that serves scenes, or a run.

    Raises:
        InputError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise InputError(NO_SERVER) from error
    pages = Pages(scenes, run)
    routes = [
        Route("/", pages.index),
        Route("/page/{name:path}", pages.file),
        Route("/{scene:int}/", pages.scene),
        Route("/{scene:int}/thumbnail.jpg", pages.thumbnail),
        Route("/progress.json", pages.progress),
        Route("/{scene:int}/figures.json", pages.figures),
        Route("/{scene:int}/overlays/{overlay}.json", pages.overlay),
        Route("/{scene:int}/tiles/{picture}/{level:int}/{col:int}_{row:int}.jpg", pages.tile),
    ]
    return Guard(Starlette(routes=routes))


def serve(
    scenes: Sequence[Scene],
    port: int,
    browser: bool,
    tell: Callable[[str], None],
    run: Run | None = None,
    until_eof: bool = False,
) -> None:
    """Serve scenes, or a run, on this machine until Ctrl-C.

    Args:
        scenes: what to show.
        port: 0 for a free one.
        browser: whether to open one.
        tell: is given the address.
        run: what to follow, in place of scenes.
        until_eof: whether to stop when the standard input ends, as it does when the process at its other end does.

    Raises:
        InputError: starlette or uvicorn is not installed.
        OutputError: the port is taken.
    """
    app = make_app(scenes, run)
    try:
        import uvicorn
    except ImportError as error:
        raise InputError(NO_SERVER) from error
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise OutputError(f"`port` {port}: cannot be used: {error.strerror}") from error
        listening.listen(128)
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        tell(address)
        if browser and not _open_browser(address):
            log.info("no browser was found; open %s in one", address)
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", access_log=False, server_header=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        if until_eof:
            threading.Thread(target=_stop_at_eof, args=(server,), daemon=True).start()
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn hands it on when it has stopped
            return


def _open_browser(address: str) -> bool:
    """Open a browser, if there is a screen for one: one of text would take the terminal."""
    shown = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & set(os.environ)
    return bool(shown or not sys.platform.startswith("linux")) and webbrowser.open(address)


def _stop_at_eof(server: Any) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True
