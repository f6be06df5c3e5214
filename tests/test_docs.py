"""Every command and every option says what it is for, and the documents name only what is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from largegen.cli import app
from largegen.cli.commands import COMMANDS

GROUP = typer.main.get_command(app)


def parameters():
    for name, command in GROUP.commands.items():
        for parameter in command.params:
            yield pytest.param(parameter, id=f"{name} {parameter.name}")


def test_every_command_is_there():
    assert list(GROUP.commands) == list(COMMANDS)


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_a_command_says_what_it_does(name):
    first = (GROUP.commands[name].help or "").splitlines()[:1]
    assert first and first[0].endswith("."), f"{name}: its docstring's first line is no sentence"


@pytest.mark.parametrize("parameter", parameters())
def test_a_parameter_says_what_it_is_for(parameter):
    assert parameter.help and parameter.help.endswith("."), f"{parameter.name}: {parameter.help!r}"


@pytest.mark.parametrize("parameter", parameters())
def test_options_are_kebab_case(parameter):
    for option in (*parameter.opts, *parameter.secondary_opts):
        assert option == parameter.name or (option == option.lower() and "_" not in option)


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_every_command_takes_config_verbose_and_quiet(name):
    options = {option for parameter in GROUP.commands[name].params for option in parameter.opts}
    assert {"--config", "--verbose", "-v", "--quiet", "-q"} <= options


ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("Makefile")),
]
COMMAND_LINE = rf"^[^#`|\n]*?\blargegen ((?:{'|'.join(COMMANDS)})\b[^`&\n]*)"


def documented_commands():
    """Each `largegen COMMAND ...` line of the documents' code blocks and makefiles."""
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        for line in re.findall(COMMAND_LINE, text, re.MULTILINE):
            yield pytest.param(line.strip(), id=f"{document.name}: {line.strip()[:60]}")


@pytest.mark.parametrize("line", documented_commands())
def test_a_documented_command_names_options_that_exist(line):
    name, *words = shlex.split(line, comments=True)
    options = {o for parameter in GROUP.commands[name].params for o in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in {*options, "--help"}, f"largegen {name} has no option {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_documents_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readme_installs_in_two_commands():
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert any("pip install ." in b and "largegen generate --ref examples/" in b for b in blocks)
    assert any("pip install '.[test]'" in b and "pytest" in b for b in blocks)
