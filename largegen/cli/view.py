"""`largegen view`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.errors import InputError
from largegen.runtime.outputs import check_new

LINEAR_DECODER = "linear_decoder.safetensors"  # in a model's directory


def view(
    results: Annotated[
        list[Path],
        typer.Argument(help="Slides, scenes, images, results or embedding files; of several a gallery is made."),
    ],
    *,
    ref: Annotated[
        Path | None, typer.Option(help="Slide, scene or embedding file to show beside each: the reference.")
    ] = None,
    levels: Annotated[
        bool, typer.Option("--levels", help="Also show the magnifications that `largegen zoom --levels` left.")
    ] = False,
    encoder: Annotated[
        str, typer.Option(help="Encoder in whose space the tiles of image and reference are compared.")
    ] = "starter",
    encoder_weights: shared.EncoderWeights = None,
    source: shared.SourceOptions,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Start no server: write all of it as a folder, to open from disk or to put on a web server. Of the"
            " reference only what lies under the image."
        ),
    ] = None,
    overwrite: shared.Overwrite = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Follow the run that makes the image, or the training run of a directory: what it has saved so far.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="With --watch: the model that samples, for the colours of an unfinished image."),
    ] = None,
    until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True, help="Stop when stdin ends.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the server, on this machine only.", show_default="a free one")
    ] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser; only print the address.")] = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen view`; its purpose stands in commands.py.

    Starts a small server that only this machine reaches, and opens a browser on it: deep zoom, image and reference side
    by side or one over the other, layers, provenance. Nothing is asked of any network. Ctrl-C stops it. Needs the extra
    `view`.
    """
    if watch:
        _watch(results, model, port, not no_browser, until_eof, json)
        return
    from largegen.view.layers import EncoderChoice
    from largegen.view.scene import open_scene
    from largegen.view.tiles import Cache

    if export:
        check_new(export, overwrite, "export")
    how: dict[str, Any] = {
        "levels": levels,
        "source": source.source(),
        "encoder": EncoderChoice(encoder, encoder_weights),
    }
    cache = Cache()
    scenes = [open_scene(path, ref, cache=cache, only_under=export is not None, **how) for path in results]
    if export:
        from largegen.view.export import export as write

        tiles = write(scenes, export, overwrite, common.show_progress())
        common.report({"out": str(export), "tiles": tiles}, f"{export / 'index.html'}: open it in a browser", json)
        return
    from largegen.view.server import serve

    def tell(address: str) -> None:
        content = {"address": address, "pictures": [[picture.name for picture in scene.pictures] for scene in scenes]}
        common.report(content, f"{address}  (Ctrl-C stops it)", json)

    serve(scenes, port, not no_browser, tell)


def _watch(results: list[Path], model: str | None, port: int, browser: bool, until_eof: bool, json: bool) -> None:
    """Follow a run at the lowest priority, so that it takes only what time the run leaves."""
    if len(results) != 1:
        raise InputError("`watch` follows one run; give its --out alone")
    from largegen.view.follow import follow
    from largegen.view.server import serve

    def yield_to_others(by: int) -> None:
        if hasattr(os, "nice"):  # not on Windows
            os.nice(by)

    yield_to_others(10)
    run = follow(results[0], _directory(model) / LINEAR_DECODER if model else None)

    def tell(address: str) -> None:
        common.report({"address": address}, f"watch {results[0]}: {address}", json)
        yield_to_others(9)  # once it is there

    serve((), port, browser, tell, run, until_eof)


def _directory(model: str) -> Path:
    if Path(model).is_dir():  # as a run that is watched gives it: without the seconds that the models' libraries take
        return Path(model)
    from largegen.models.directory import find_model

    return find_model(model)
