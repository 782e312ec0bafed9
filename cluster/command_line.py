"""Arguments and options that commands share, and what they know of a recipe, whose parts are defined in packages above this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from typer.core import TyperGroup

from cluster.storage_config import StorageConfig

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


class Named(Protocol):
    """A recipe, as far as every command needs it."""

    @property
    def name(self) -> str: ...
    @property
    def storage(self) -> StorageConfig: ...


ReadNamed = Callable[[Path | None], Named]
"""Reads a recipe; None: that of the last `serinus deploy`."""


def with_groups(groups: Mapping[str, Callable[[], typer.Typer]]) -> type[TyperGroup]:
    """A command line with these groups of commands behind its own. A group is made, and what it needs imported, when it is
    asked for: making all of them takes longer than most commands do."""

    class Grouped(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            # For lists, and for who mistypes one.
            self.commands.update((name, TyperGroup(name=name)) for name in groups)

        def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
            if cmd_name not in groups:
                return super().get_command(ctx, cmd_name)
            made = groups[cmd_name]()
            made.rich_markup_mode = None
            command = typer.main.get_group(made)
            command.name = cmd_name
            return command

    return Grouped
