"""The order of the package's folders: each imports only those above it, and no files import each other in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers import ROOT

ORDER = (
    ("version", "errors", "runtime"),
    *(("slides",), ("models",), ("embeddings",), ("probing",), ("conditioning",), ("sampling",)),
    *(("images",), ("augmenting",), ("metrics",), ("view",), ("training",), ("cli",)),
)
LAYERS = {folder: number for number, folders in enumerate(ORDER) for folder in folders}
FACE = {"largegen", "largegen.__main__"}  # what users import and run lies above all


def module_of(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for path in sorted((ROOT / "largegen").rglob("*.py"))}


def imported(path) -> set[str]:
    """Modules of this package that a file imports anywhere: also inside functions, and for type annotations only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "largegen"}


IMPORTS = {module: imported(path) for module, path in FILES.items()}


def layer(module: str) -> int:
    return LAYERS[module.split(".")[1]]


@pytest.mark.parametrize("module", sorted(FILES.keys() - FACE))
def test_a_file_imports_only_its_own_folder_and_those_above(module):
    below = {name for name in IMPORTS[module] if name in FACE or layer(name) > layer(module)}
    assert not below, f"{module} imports {', '.join(sorted(below))}"


def test_no_circle_of_files():
    try:
        tuple(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        circle = error.args[1]
        pytest.fail(" <- ".join(circle))


def test_every_import_is_found():
    assert "largegen.slides.readers" in IMPORTS["largegen.slides.slide"]
    assert "largegen.slides.slide" in IMPORTS["largegen.slides.tiles"]  # for annotations only
    assert "largegen.models.model" in IMPORTS["largegen.cli.generate"]  # inside a function
