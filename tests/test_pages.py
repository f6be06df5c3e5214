"""The pages of the documentation agree with the code: commands, formats, quoted errors, and what is generated."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import typer

from largegen.cli import app, flags, run

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
TASKS = sorted((DOCS / "tasks").glob("*.md"))
MODULES = sorted((ROOT / "largegen").rglob("*.py"))
BLOB = "https://github.com/largegen/largegen/blob/main/"
GAP = "…"  # stands for a name or a number in a quoted message


def name_of(path):
    return str(path.relative_to(ROOT))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


@pytest.mark.parametrize("page", TASKS, ids=lambda path: path.stem)
def test_a_task_has_commands_that_can_be_copied_and_leads_on(page):
    text = page.read_text()
    assert re.search(r"^```\n(?:.*\n)*?.*largegen \w+ ", text, re.MULTILINE)
    assert "## See also" in text


def test_generated_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, content in generate.pages().items():
        assert page.read_text() == content, f"{name_of(page)}: run python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_into_the_repository_lead_to_files(page):
    for target in re.findall(re.escape(BLOB) + r"([^)#\s]+)", page.read_text()):
        assert (ROOT / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_a_page_names_exist(page):
    for name in re.findall(r"`([\w./]+/\w+\.py)`", page.read_text().split("<!-- map -->")[0]):
        assert (ROOT / name).exists() or (ROOT / "largegen" / name).exists(), f"{page.name} names {name}"


def python_blocks():
    for page in PAGES:
        for number, block in enumerate(
            re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        ):
            yield pytest.param(block, id=f"{page.name} {number}")


@pytest.mark.parametrize("block", python_blocks())
def test_python_imports_names_that_exist(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            found = pytest.importorskip if name.split(".")[0] == "wsidata" else importlib.import_module  # of LazySlide
            module = found(name)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", sorted((DOCS / "extend").glob("*.md")), ids=lambda path: path.stem)
def test_the_examples_of_how_to_extend_run(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, page.name, "exec"), {})


def messages():
    """Every string of the package, with a gap for each value that is put into it."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sdg]|%\.\d\w", GAP, node.value)


def quotations():
    return re.findall(r"^> `([^`]+)`$", (DOCS / "faq.md").read_text(), re.MULTILINE)


def messages_of_commands(monkeypatch):
    """The messages in the words of each command: with its flags in place of the library's names."""
    monkeypatch.setattr(flags, "_flags", {})
    raw = set(messages())
    for command in typer.main.get_command(app).commands.values():
        flags.speak_for(command)
        yield from {flags.in_flags(message) for message in raw}


def test_errors_that_the_faq_quotes_exist(monkeypatch):
    found = set(messages_of_commands(monkeypatch))
    assert len(quotations()) > 10
    for quotation in quotations():
        pattern = re.compile(".*".join(re.escape(part) for part in quotation.split(GAP)), re.DOTALL)
        assert any(pattern.search(message) for message in found), f"no message like {quotation!r}"


def code_in(heading):
    """The words in backticks of a section of the page on formats."""
    text = (DOCS / "formats.md").read_text().split(f"## {heading}\n")[1]
    return set(re.findall(r"`([^`]+)`", re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]))


@pytest.fixture(scope="module")
def made(tmp_path_factory, slide_path):
    """A directory with an embedding file, an image and a contact sheet."""
    folder = tmp_path_factory.mktemp("made")
    embeddings, quick = folder / f"{slide_path.stem}.h5", ["--steps", "2", "--quiet"]
    reference = ["--embeddings", str(embeddings)]
    assert run(["embed", str(slide_path), "--out", str(folder), "--mag", "20", "--quiet"]) == 0
    assert run(["generate", *reference, "--size", "256", "--out", str(folder / "image.png"), *quick]) == 0
    assert run(["sample", *reference, "-n", "1", "--out", str(folder / "sheet.png"), *quick]) == 0
    return folder


def test_every_attribute_of_an_embedding_file_is_listed(made):
    import h5py

    listed = code_in("Embedding files")
    with h5py.File(next(made.glob("*.h5"))) as file:
        assert {f"/{name}" for name in file} <= listed
        assert set(file.attrs) | set(file["coords"].attrs) <= listed


@pytest.mark.parametrize("name", ["image.png", "sheet.png"])
def test_everything_that_an_image_records_is_listed(made, name):
    record = json.loads((made / f"{name}.json").read_text())
    assert record.keys() | record["sampling"].keys() <= code_in("Image provenance")


def test_everything_that_a_model_says_of_itself_is_listed():
    index = json.loads((ROOT / "largegen" / "starter" / "model_index.json").read_text())
    listed = code_in("Model directory")
    assert index["info"].keys() <= listed
    assert {f"{part}/" for part in ("vae", "unet", "conditioner") if part in index} <= listed
