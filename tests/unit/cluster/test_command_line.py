"""Commands and groups of them that are made when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from cluster.command_line import made_when_asked


@pytest.fixture
def made() -> list[str]:
    """What was made, as it was."""
    return []


@pytest.fixture
def app(made: list[str]) -> typer.Typer:
    def ways() -> typer.Typer:
        made.append("ways")
        found = typer.Typer()
        found.command("check")(lambda: print("checked"))
        found.command("run")(lambda: None)
        return found

    def group(name: str) -> typer.Typer:
        made.append(name)
        found = typer.Typer(help=f"All about {name}.")
        found.command("show")(lambda: print(f"this is {name}"))
        found.command("hide")(lambda: None)
        return found

    commands = {"check": ways, "run": ways}
    groups = {"fruit": lambda: group("fruit"), "bread": lambda: group("bread")}
    line = typer.Typer(cls=made_when_asked(commands, groups), rich_markup_mode=None)
    line.callback()(lambda: None)
    return line


@pytest.mark.parametrize(
    ("asked", "said", "needed"),
    [
        (["check"], "checked", ["ways"]),
        (["fruit", "show"], "this is fruit", ["fruit"]),
        (["bread", "--help"], "All about bread.", ["bread"]),
        (["bread", "shwo"], "Did you mean 'show'?", ["bread"]),
        (["frut"], "Did you mean 'fruit'?", []),
        (["chekc"], "Did you mean 'check'?", []),
    ],
)
def test_only_what_is_asked_for_is_made(
    app: typer.Typer, made: list[str], asked: list[str], said: str, needed: list[str]
) -> None:
    done = CliRunner().invoke(app, asked)
    assert said in done.output
    assert made == needed


def test_help_tells_of_commands_and_then_of_groups(app: typer.Typer) -> None:
    told = CliRunner().invoke(app, ["--help"]).output
    places = [told.index(words) for words in ("check", "fruit  All about fruit.", "bread  All about bread.")]
    assert places == sorted(places)


def test_tracing_a_document_imports_neither_other_commands_nor_what_stages_are_set_to() -> None:
    asks = (
        "import sys, serinus; sys.argv = ['serinus', 'data', 'trace', '--help']\n"
        "try: serinus.main()\n"
        "finally: print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True).stdout.split()
    assert "pipelines.data.commands" in loaded
    others = {"serinus_recipe", "serinus_commands", "pipelines.config", "services.config", "cluster.registry"}
    assert not others & {*loaded}
