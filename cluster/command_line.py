"""What commands share: arguments, options, and that none is made before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.recipe import read_named
from cluster.storage import Storage, open_storage

if TYPE_CHECKING:
    from typer._click import Command, Context

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the lifecycle")]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", metavar="RECIPE", help="default: the recipe of the last `serinus deploy`")
]
TopologyOption = Annotated[
    Path | None, typer.Option("--topology", help="the cluster's declaration; default: ray_cluster.yaml")
]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]


def storage_of(recipe: Path | None) -> Storage:
    """The storage that a recipe names; None: that of the last `serinus deploy`."""
    return open_storage(read_named(recipe).storage)


def made_when_asked(
    commands: Mapping[str, Callable[[], typer.Typer]], groups: Mapping[str, Callable[[], typer.Typer]]
) -> type[TyperGroup]:
    """A command line of these commands, each found in what its function makes, and behind them these groups of commands. Either
    is made, and what it needs imported, when it is asked for: making all of them takes longer than most commands do."""

    class MadeWhenAsked(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            # For lists, and for who mistypes one.
            self.commands.update((name, TyperGroup(name=name)) for name in (*commands, *groups))

        def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
            if cmd_name in commands:
                return _made(commands[cmd_name]).commands[cmd_name]
            if cmd_name not in groups:
                return None
            group = _made(groups[cmd_name])
            group.name = cmd_name
            return group

    return MadeWhenAsked


def _made(make: Callable[[], typer.Typer]) -> TyperGroup:
    made = make()
    made.rich_markup_mode = None
    return typer.main.get_group(made)
