"""A headless Chromium for the tests of the pages, where one is installed, and a server beside it."""

import shutil
import socket
import threading
from contextlib import contextmanager

import pytest

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 30_000  # a busy machine is slow, and no test waits for nothing


@contextmanager
def chromium():
    """Start the system's Chromium; skip, saying so, where it or playwright is not there."""
    api = pytest.importorskip("playwright.sync_api", reason="the extra `view-test` is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium: `apt-get install chromium` lets these tests look at the pages")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def serving(app):
    """Serve an ASGI application from a thread; gives its address."""
    import uvicorn

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


class Look:
    """One page in a window of its own, and what went wrong on it."""

    def __init__(self, browser, address: str, width: int = 1440, height: int = 900, theme: str = "light", ready=True):
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", lambda answer: answer.status >= 400 and self.faults.append(answer.url))
        self.page.goto(address)
        if ready:
            self.page.wait_for_selector("#first[data-ready]")
            self.settled()

    def settled(self) -> None:
        """Wait until the pictures that are shown are drawn, tiles and all."""
        self.until(
            "((panes) => panes.placed && panes.shown.every((pane) => pane.viewer.world.getItemCount() &&"
            " pane.viewer.world.getItemAt(0).getFullyLoaded()))(document.querySelector('.stage').panes)"
        )

    def until(self, condition: str) -> None:
        """Wait until a condition of JavaScript holds; as a function, which needs no `eval` in the page."""
        self.page.wait_for_function(f"() => {condition}")

    def view(self) -> dict:
        """Return x, y and zoom."""
        return self.page.evaluate("document.querySelector('.stage').panes.view")

    def views(self) -> list[list[float]]:
        """Return the centre and zoom of each viewer that there is."""
        return self.page.evaluate(
            "document.querySelector('.stage').panes.panes.filter((pane) => pane.viewer).map(({viewer: {viewport}}) =>"
            " [viewport.getCenter(true).x, viewport.getCenter(true).y, viewport.getZoom(true)])"
        )

    def colour(self, x: float, y: float) -> list[int]:
        """Return the colour that is seen at a place of the window: red, green, blue."""
        import io

        from PIL import Image

        shot = self.page.screenshot(clip={"x": x, "y": y, "width": 1, "height": 1})
        return list(Image.open(io.BytesIO(shot)).convert("RGB").getpixel((0, 0)))

    def close(self) -> None:
        """Close the window."""
        self.context.close()
