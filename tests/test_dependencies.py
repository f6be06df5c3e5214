"""What is imported is declared, and what only the tests need is no dependency of the package."""

import ast
import re
import sys
import tomllib

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "openslide": "openslide-python",
    "open_clip": "open-clip-torch",
    "sklearn": "scikit-learn",
}  # under another name
BROUGHT = {
    "huggingface_hub": "diffusers",
    "torchvision": "timm",
    "yaml": "timm",
    "pandas": "anndata",
    "transformers": "sentence-transformers",
}  # what brings them is declared


def declared(requirements) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}


def imports(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


IMPORTS = set().union(*(imports(path) for path in (ROOT / "largegen").rglob("*.py")))


def test_every_import_is_declared():
    extras = PROJECT["optional-dependencies"]
    known = declared(PROJECT["dependencies"]).union(
        {"largegen"}, *(declared(extras[name]) for name in extras.keys() - {"test", "docs"})
    )
    roots = {name.partition(".")[0] for name in IMPORTS} - sys.stdlib_module_names - BROUGHT.keys()
    assert {DISTRIBUTIONS.get(root, root).lower().replace("_", "-") for root in roots} <= known


def test_of_clean_fid_only_its_resizing_is_used():
    """Its Fréchet distance needs a SciPy before 1.18, which only the tests ask for."""
    assert {name for name in IMPORTS if name.startswith("cleanfid")} == {"cleanfid.resize"}
    assert "scipy<1.18" in PROJECT["optional-dependencies"]["test"]
    assert not [requirement for requirement in PROJECT["dependencies"] if "<" in requirement]
