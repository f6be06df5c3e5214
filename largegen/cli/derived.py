"""Options made of dataclasses: a command's parameter that is a dataclass becomes an option for each of its fields."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from largegen.errors import InputError
from largegen.runtime.setting import Setting

Command = Callable[..., Any]


@dataclass(frozen=True)
class Fields:
    """Which fields of a dataclass a command takes: `sampling: Annotated[Sampling, Fields("steps", "seed")]`."""

    only: tuple[str, ...]  # none: all that have a Setting
    flags: Mapping[str, str]  # those that are not their field's name: {"schedule": "--lr-schedule"}

    def __init__(self, *only: str, **flags: str) -> None:
        """Choose fields by their names, and give flags by the names of theirs."""
        object.__setattr__(self, "only", only)
        object.__setattr__(self, "flags", flags)


@dataclass(frozen=True)
class _Option:
    """An option, and how its value becomes that of a field."""

    parameter: inspect.Parameter
    target: str  # name of the field
    convert: Callable[[Any], Any] = lambda value: value


def with_derived_options(function: Command) -> Command:
    """Give a command the options of each parameter that is a dataclass, and the command the dataclass made of them.

    The options stand where the parameter stands, but for fields that the command has as parameters of its own. Their
    defaults are those of the parameter's default, else the dataclass's.
    """
    own = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, tuple[Any, list[_Option]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        kind, chosen = _unwrapped(parameter.annotation)
        if not is_dataclass(kind):
            parameters.append(parameter)
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        options = [option for option in _options(kind, chosen, default) if option.parameter.name not in own]
        groups[name] = kind, options
        parameters += [option.parameter for option in options]
    defaults = {name: own[name].default for name in groups}

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        for name, (kind, options) in groups.items():
            values = {option.target: option.convert(given.pop(option.parameter.name)) for option in options}
            base = defaults[name]
            given[name] = kind(**values) if base is inspect.Parameter.empty else replace(base, **values)
        return function(**given)

    return with_parameters(command, parameters)


def with_parameters(command: Command, parameters: Iterable[inspect.Parameter]) -> Command:
    """Let a function that takes keywords say which: Typer makes the options of its signature."""
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    return command


def _unwrapped(annotation: Any) -> tuple[Any, Fields]:
    if get_origin(annotation) is not Annotated:
        return annotation, Fields()
    kind, *marks = get_args(annotation)
    return kind, next((mark for mark in marks if isinstance(mark, Fields)), Fields())


def _options(kind: Any, chosen: Fields, default: Any) -> list[_Option]:
    hints = get_type_hints(kind, include_extras=True)
    flags = {f.name: chosen.flags.get(f.name, f"--{f.name.replace('_', '-')}") for f in fields(kind)}
    found = []
    for f in fields(kind):
        type_, *marks = get_args(hints[f.name]) if get_origin(hints[f.name]) is Annotated else [hints[f.name]]
        value = getattr(default, f.name, f.default)
        value = inspect.Parameter.empty if value is MISSING else value
        if not marks or (chosen.only and f.name not in chosen.only):
            continue
        if isinstance(marks[0], Setting):
            found.append(_option(f.name, type_, marks[0], flags, value))
        else:  # an option of Typer's, in a dataclass of the command line
            found.append(_Option(_parameter(f.name, type_, marks[0], value), f.name))
    return found


def _option(name: str, type_: Any, setting: Setting, flags: Mapping[str, str], default: Any) -> _Option:
    help_ = re.sub(r"`(\w+)`", lambda match: flags.get(match[1], match[0]), setting.help)
    if type_ is bool:
        if default:  # is turned off by a flag of its own
            flag = f"--no-{flags[name].removeprefix('--')}"
            info = typer.Option(flag, help=help_)
            return _Option(_parameter(f"no_{name}", bool, info, False), name, lambda off: not off)
        return _Option(_parameter(name, bool, typer.Option(flags[name], help=help_), False), name)
    if setting.auto is not None:
        info = typer.Option(flags[name], help=help_, metavar="N|auto")
        default = "auto" if default == setting.auto else str(default)
        return _Option(
            _parameter(name, str, info, default), name, functools.partial(_number_or_auto, name, setting.auto)
        )
    shown = True if setting.unset is None else setting.unset
    info = typer.Option(flags[name], help=help_, min=setting.min, max=setting.max, show_default=shown)
    return _Option(_parameter(name, type_, info, default), name)


def _parameter(name: str, type_: Any, info: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[type_, info])


def _number_or_auto(name: str, auto: int, text: str) -> int:
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise InputError(f"`{name}` {text}: give auto or a number, 1 or more")
    return auto if text == "auto" else int(text)
