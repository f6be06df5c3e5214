"""The options of every command: those of the first release stay as they are, and derive from dataclasses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from largegen.cli import app
from largegen.cli.derived import Fields, with_derived_options
from largegen.runtime.setting import Setting

FROZEN = Path(__file__).with_name("options.txt")


def described(group) -> list[str]:
    """One line per argument and option: command, names, type, default and what limits it."""
    return [
        f"{command} {_names(parameter)}: {_type(parameter)}{_rest(parameter)}"
        for command in sorted(group.commands)
        for parameter in sorted(group.commands[command].params, key=_names)
    ]


def _names(parameter) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar or parameter.name
    return " ".join(sorted([*parameter.opts, *parameter.secondary_opts]))


def _type(parameter) -> str:
    annotation = parameter.type_descriptor.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _rest(parameter) -> str:
    default = " required" if parameter.required else f" = {parameter.default!r}"
    limits = [f", {name} {getattr(parameter, name)}" for name in ("min", "max") if getattr(parameter, name) is not None]
    return default + "".join(limits) + (", many" if parameter.multiple or parameter.nargs == -1 else "")


def test_the_options_of_the_first_release_are_as_they_were():
    missing = set(FROZEN.read_text().splitlines()) - set(described(typer.main.get_command(app)))
    assert not missing


@dataclass(frozen=True)
class Sizes:
    """Settings of many kinds."""

    width: Annotated[int, Setting("Width.", min=1)]
    speed: Annotated[float, Setting("Speed; see `width`.", max=2.0, unset="as fast as it can")] = 1.0
    fast: Annotated[bool, Setting("Be fast.")] = False
    check: Annotated[bool, Setting("Do not check.")] = True
    batch: Annotated[int, Setting("Batch.", auto=0)] = 0
    other: Annotated[Path | None, typer.Option(help="An option of Typer's.")] = None
    hidden: int = 7


def app_of(function) -> typer.Typer:
    made = typer.Typer()
    made.command()(with_derived_options(function))
    return made


def call(function, *arguments: str):
    """What the command returns, called in this process."""
    return app_of(function)(list(arguments), standalone_mode=False)


def sizes(sizes: Sizes, own: str = "x"):
    return sizes, own


def test_a_dataclass_becomes_options():
    assert call(sizes, "--width", "3") == (Sizes(3), "x")
    given = ["--width", "3", "--speed", "0.5", "--fast", "--no-check", "--batch", "4", "--other", "a", "--own", "y"]
    assert call(sizes, *given) == (Sizes(3, 0.5, True, False, 4, Path("a")), "y")
    assert call(sizes, "--width", "3", "--batch", "auto")[0].batch == 0


def test_fields_choose_options_and_their_flags():
    def command(sizes: Annotated[Sizes, Fields("width", "fast", width="--wide")] = Sizes(5, hidden=8)):
        return sizes

    options = {name for parameter in typer.main.get_command(app_of(command)).params for name in parameter.opts}
    assert options >= {"--wide", "--fast"} and not options & {"--width", "--speed", "--hidden"}
    assert call(command) == Sizes(5, hidden=8)
    assert call(command, "--wide", "6", "--fast") == Sizes(6, fast=True, hidden=8)


def test_help_says_what_settings_say_in_flags():
    options = {p.name: p for p in typer.main.get_command(app_of(sizes)).params}
    assert options["speed"].help == "Speed; see --width." and options["speed"].show_default == "as fast as it can"
    assert options["batch"].metavar == "N|auto" and options["batch"].default == "auto"
    assert options["width"].required and options["width"].min == 1


def test_a_parameter_of_the_command_wins_over_a_field():
    def command(sizes: Sizes, speed: str = "slow"):
        return sizes, speed

    assert call(command, "--width", "2", "--speed", "none") == (Sizes(2), "none")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_number_or_auto(text):
    with pytest.raises(ValueError, match=f"`batch` {text}: give auto or a number"):
        call(sizes, "--width", "2", "--batch", text)
