"""The library's messages in the words of the command line: names of parameters become flags."""

import re
from typing import Any

_BACKTICKS = re.compile(r"`([^`]*)`")
_ASSIGNMENT = re.compile(r"(\w+)(?:=(.+))?")

_flags: dict[str, str] = {}  # of the running command: {parameter: its flag}


def flags_of(command: Any) -> dict[str, str]:
    """Map the names of a click command's options to their long flags: `{"seed": "--seed"}`.

    A flag with another name than its parameter is found under both, one that turns something off (`no_tissue_filter`)
    under the name of what it turns off as well.
    """
    options = [p for p in command.params if p.param_type_name == "option"]
    flags = {option.name: max(option.opts, key=len) for option in options}
    by_flag = {flag.removeprefix("--").replace("-", "_"): flag for flag in flags.values()}
    return {name.removeprefix("no_"): flag for name, flag in flags.items()} | by_flag | flags


def speak_for(command: Any) -> None:
    """From now on `in_flags` answers in the flags of this click command."""
    _flags.clear()
    _flags.update(flags_of(command))


def in_flags(text: str) -> str:
    """Turn names in backticks into the running command's flags; names of anything else lose their backticks.

    `seed` becomes --seed, `windows="overlap"` becomes --windows overlap, `overwrite=True` becomes --overwrite and
    `tissue_filter=False` becomes --no-tissue-filter.
    """
    return _BACKTICKS.sub(lambda match: _in_flags(match[1]), text)


def _in_flags(code: str) -> str:
    assignment = _ASSIGNMENT.fullmatch(code)
    if assignment is None:
        return f"`{code}`"  # a command, such as `largegen embed`
    if assignment[1] not in _flags:
        return code
    flag, value = _flags[assignment[1]], assignment[2]
    if value is None or value in ("True", "False"):
        return flag
    return f"{flag} {value.strip(chr(34) + chr(39))}"
