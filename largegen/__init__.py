"""largegen: generate large histopathology and satellite images from self-supervised embeddings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from largegen.embedding_file import read_grid
    from largegen.generation import generate
    from largegen.model import load_model

__version__ = "0.1.0"
__all__ = ["generate", "load_model", "read_grid"]

_HOMES = {"generate": "largegen.generation", "load_model": "largegen.model", "read_grid": "largegen.embedding_file"}


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for: `import largegen` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'largegen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
