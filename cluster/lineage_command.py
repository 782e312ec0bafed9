"""`serinus lineage`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cluster import registry
from cluster.command_line import RecipeOption
from cluster.recipe import read_named
from cluster.storage import open_storage


def register(app: typer.Typer, out: Console) -> None:
    """Add the command to the command line."""

    @app.command()
    def lineage(
        revision: Annotated[str, typer.Argument(help="revision, alias (stable, candidate) or digest")],
        recipe: RecipeOption = None,
    ) -> None:
        """What a revision was made of, down to the hashes of the input files."""
        loaded = read_named(recipe)
        _print_tree(registry.lineage(open_storage(loaded.storage), loaded.name, revision), out)


def _print_tree(node: registry.Lineage, out: Console, depth: int = 0) -> None:
    name = f"{node.key}  " if node.kind == "source" else ""
    out.print(f"{'  ' * depth}{node.kind} {node.digest[:12]}  {name}{node.summary}", markup=False)
    for child in node.children:
        _print_tree(child, out, depth + 1)
