"""largegen: generate large histopathology and satellite images from self-supervised embeddings."""

from typing import TYPE_CHECKING, Any

from largegen.version import __version__

if TYPE_CHECKING:
    from largegen.embeddings.file import read_grid
    from largegen.models.model import load_model
    from largegen.sampling.edit import edit
    from largegen.sampling.generate import generate
    from largegen.sampling.grow import grow
    from largegen.sampling.zoom.upscale import upscale

__all__ = ["__version__", "edit", "generate", "grow", "load_model", "read_grid", "upscale"]

_HOMES = {
    "edit": "largegen.sampling.edit",
    "generate": "largegen.sampling.generate",
    "grow": "largegen.sampling.grow",
    "load_model": "largegen.models.model",
    "read_grid": "largegen.embeddings.file",
    "upscale": "largegen.sampling.zoom.upscale",
}


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for: `import largegen` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'largegen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
