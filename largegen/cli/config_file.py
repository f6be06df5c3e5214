"""`--config`: a TOML file whose values are the defaults of a command's options."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.errors import InputError


def _on_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a TOML file the defaults of this command's options; options on the command line win.

    Keys are option names without the dashes in front (`batch-size` or `batch_size`). A table named after a
    command holds values for that command only, so one file can serve a chain of commands. Raises InputError
    for a file that cannot be read and for a key that this command does not know.
    """
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows begin files with a mark
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not a TOML file: {error}") from error
    command, commands = str(context.info_name), getattr(context.parent and context.parent.command, "commands", ())
    values = {key: value for key, value in content.items() if not isinstance(value, dict)}
    for table, entries in content.items():
        if not isinstance(entries, dict):
            continue
        if table.replace("_", "-") == command:
            values |= entries
        elif table.replace("_", "-") not in commands:
            raise InputError(f"--config {path}: [{table}] is not a command")
    options = [parameter for parameter in context.command.params if parameter.param_type_name == "option"]
    names = {_key(name): option.name for option in options for name in (option.name, *option.opts)}
    for key in values:
        if names.get(_key(key)) in (None, "config"):
            raise InputError(f"--config {path}: {command} has no option {key.replace('_', '-')!r}")
    by_name = {option.name: option for option in options}
    defaults = {}
    for key, value in values.items():
        option = by_name[names[_key(key)]]
        defaults[option.name] = _default(option, value, f"--config {path}: {key.replace('_', '-')}")
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _default(option: Any, value: Any, what: str) -> Any:
    """Check the type of a value of a TOML file, and make it what the option takes as a default.

    Raises:
        InputError: For a value that Click would take for another: true for 1, 2.5 for 2.
    """
    if option.multiple and not isinstance(value, list):
        value = [value]  # one where several may be
    elif isinstance(value, list) and not option.multiple and option.nargs == 1:
        raise InputError(f"{what}: takes one value, not a list")
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, bool | int | float | str):
            raise InputError(f"{what}: {one} is none of text, number, true or false")
        if isinstance(one, bool) and not (option.is_flag or option.count):
            raise InputError(f"{what}: takes a value, not {str(one).lower()}")
        if option.is_flag and not isinstance(one, bool):
            raise InputError(f"{what}: takes true or false, not {one}")
        if isinstance(option.default, int) and isinstance(one, float) and not one.is_integer():
            raise InputError(f"{what}: {one} is no whole number")
    return value


def _key(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with values for any of these options; options on the command line take precedence.",
        callback=_on_config,
        is_eager=True,
        metavar="RUN.TOML",
    ),
]
