"""Pickles of other projects, read without importing or calling anything that they name.

A pickle may name any function and call it. Here each name is looked up in a fixed table; for the rest a reader says
what stands in, or refuses the file.
"""

import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

Names = Mapping[tuple[str, str], Any]  # (module, name) in a pickle -> what takes its place


class RefusedError(Exception):
    """A pickle names something that its reader has no need of."""


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that finds names in `known` alone; other names are refused unless a subclass replaces them."""

    known: ClassVar[Names] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name, instead of importing it."""
        return self.known[module, name] if (module, name) in self.known else self.unknown(module, name)

    def unknown(self, module: str, name: str) -> Any:
        """Return what stands for a name that is not in `known`.

        Raises:
            RefusedError: Always, unless overridden.
        """
        raise RefusedError(f"it names {module}.{name}")


class Inert(dict[Any, Any]):
    """Stands for an object of a foreign class: takes whatever the pickle does to it, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]  # pickles use foreign objects as keys
        return id(self)

    def append(self, item: Any) -> None:
        """Do nothing, where a pickle fills a list."""

    def extend(self, items: Any) -> None:
        """Do nothing, where a pickle fills a list."""

    def add(self, item: Any) -> None:
        """Do nothing, where a pickle fills a set."""
