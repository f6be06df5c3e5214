"""Every command and every option says what it is for."""

import pytest
import typer

from largegen.cli import COMMANDS, app

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
