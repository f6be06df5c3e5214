"""Write the generated parts of the documentation: `docs/cli.md`, and the map of the package in `docs/architecture.md`.

python docs/generate.py
"""

import ast
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "largegen"
MAP_START, MAP_END = "<!-- map -->\n", "<!-- end of the map -->\n"
VALUES = {Path: "PATH", str: "TEXT", float: "NUMBER", int: "N"}
COMMON = ("config", "verbose", "quiet")  # options of every command, listed once


def cli_page() -> str:
    """Render the reference of the command line from the app itself."""
    from largegen.cli import app

    group = typer.main.get_command(app)
    lines = ["# Command line", "", "<!-- Written by docs/generate.py from the commands themselves. -->", ""]
    lines += [_markdown(group.help or ""), "", "| stage | command | purpose |", "|---|---|---|"]
    for name, command in group.commands.items():
        lines.append(f"| {command.rich_help_panel} | [`{name}`](#{name}) | {_markdown(_paragraphs(command.help)[0])} |")
    any_command = next(iter(group.commands.values()))
    common = [parameter for parameter in any_command.params if parameter.name in COMMON]
    lines += ["", "Every command accepts these options:", "", *_table("option", common)]
    lines += ["| `-h`, `--help` | Show the help and exit. | |", "", _markdown(group.epilog or ""), ""]
    for name, command in group.commands.items():
        lines += [*_command(name, command), ""]
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name} {{ #{name} }}"
    for paragraph in _paragraphs(command.help):
        yield from ("", _markdown(paragraph))
    if command.epilog:  # an example, see largegen/cli/commands.py
        yield from ("", "```", command.epilog.splitlines()[-1].strip(), "```")
    types = typing.get_type_hints(command.callback)
    own = [parameter for parameter in command.params if parameter.name not in COMMON and not parameter.hidden]
    for kind in ("argument", "option"):
        of_kind = [parameter for parameter in own if parameter.param_type_name == kind]
        if of_kind:
            yield from ("", *_table(kind, of_kind, types))


def _table(kind: str, parameters: Iterable[Any], types: Mapping[str, Any] = MappingProxyType({})) -> Iterator[str]:
    """Rows of a Markdown table: how each parameter is given, what it is for, and its default."""
    yield from (f"| {kind} | meaning | default |", "|---|---|---|")
    for parameter in parameters:
        names = ", ".join(f"`{name}`" for name in _names(parameter, types.get(parameter.name)))
        yield f"| {_markdown(names)} | {_markdown(parameter.help or '')} | {_markdown(_default(parameter))} |"


def _names(parameter: Any, annotation: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.metavar or parameter.name.upper()]
    kinds = {annotation, *typing.get_args(annotation)}
    takes = next((name for kind, name in VALUES.items() if kind in kinds), "")
    value = f" {parameter.metavar or takes}" if takes or parameter.metavar else ""
    *short, longest = sorted([*parameter.opts, *parameter.secondary_opts], key=len)
    return [*short, longest + value]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):  # what stands for a default that is found out later
        return parameter.show_default
    if parameter.default in (None, False, ()) or parameter.count or callable(parameter.default):
        return ""
    return f"`{parameter.default}`"


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n") if paragraph.strip()]


def _markdown(text: str) -> str:
    """Escape what Markdown would take for markup, outside of backticks."""
    parts = text.split("`")
    outside = [
        part.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[") for part in parts[::2]
    ]
    inside = [part.replace("|", "\\|") for part in parts[1::2]]
    woven = [piece for pair in zip(outside, [*inside, None], strict=False) for piece in pair if piece is not None]
    return "`".join(woven)


FOLDERS = (
    "",
    *("runtime", "slides", "models", "embeddings", "probing", "conditioning", "sampling", "images", "augmenting"),
    *("metrics", "view", "training", "cli"),
)


def package_map() -> str:
    """List every module of the package, folder by folder, with the first line of its docstring."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        found.setdefault(parts[0] if len(parts) > 1 else "", []).append(path)
    lines = []
    for folder in sorted(found, key=FOLDERS.index):
        face = PACKAGE / folder / "__init__.py"
        lines += ["", f"### `{folder or 'largegen'}/`" if folder else "### `largegen/`", ""]
        if folder and _summary(face):
            lines += [_markdown(_summary(face)), ""]
        lines += ["| file | |", "|---|---|"]
        for path in found[folder]:
            if _summary(path) and not (folder and path == face):
                name = path.relative_to(PACKAGE / folder).as_posix().removesuffix("__init__.py" if folder else "")
                lines.append(f"| `{name}` | {_markdown(_summary(path))} |")
    return "\n".join(lines) + "\n\n"


def _summary(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return (_paragraphs(docstring) or [""])[0]


def architecture_page(text: str) -> str:
    """Replace the map between the markers of the page's text by that of today."""
    before, rest = text.split(MAP_START)
    return before + MAP_START + package_map() + MAP_END + rest.split(MAP_END)[1]


def pages() -> dict[Path, str]:
    """Every page that is generated, wholly or in part, and what it should contain."""
    architecture = DOCS / "architecture.md"
    return {
        DOCS / "cli.md": cli_page(),
        architecture: architecture_page(architecture.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))  # this checkout, not an installed largegen
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
        print(page)
