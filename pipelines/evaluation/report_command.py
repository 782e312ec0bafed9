"""`serinus report` and `serinus card`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.command_line import RecipeOption
from pipelines.config import LifecycleConfig

if TYPE_CHECKING:
    from pipelines.evaluation.register import Register

ReadRecipe = Callable[[Path | None], LifecycleConfig]


def add_to(app: typer.Typer, read_recipe: ReadRecipe) -> None:
    """Add the commands to the command line, whose recipes hold more than this package knows."""

    @app.command()
    def report(
        wanted: Annotated[
            str, typer.Argument(metavar="RECIPE|REVISION", help="a recipe (its last gate), a revision or an alias")
        ],
        recipe: RecipeOption = None,
        register: Annotated[
            list[Path] | None, typer.Option(help="a register of indicators of your own, beside those shipped")
        ] = None,
        folder: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path(),
    ) -> None:
        """Write all that is on record of a model as one HTML page, and as JSON."""
        from cluster.storage import open_storage
        from pipelines.evaluation import report as made
        from pipelines.evaluation.judged import last_gate
        from pipelines.evaluation.report_page import write

        of_recipe = wanted.endswith((".yaml", ".yml"))
        loaded = read_recipe(Path(wanted) if of_recipe else recipe)
        storage, registers = open_storage(loaded.storage), _registers(register or [])
        if of_recipe:
            found = made.of_gate(storage, loaded.name, last_gate(storage, loaded.name), registers)
        else:
            found = made.of_revision(storage, loaded.name, wanted, registers)
        for path in write(found, folder):
            typer.echo(path)

    @app.command()
    def card(
        revision: Annotated[str, typer.Argument(help="revision or alias (stable, candidate)")],
        recipe: RecipeOption = None,
    ) -> None:
        """Print a published revision's model card, in the format of Hugging Face's README.md."""
        from cluster.storage import open_storage
        from pipelines.evaluation import model_card
        from pipelines.evaluation import report as made

        loaded = read_recipe(recipe)
        found = made.of_revision(open_storage(loaded.storage), loaded.name, revision, ())
        typer.echo(model_card.card(found), nl=False)


def _registers(paths: list[Path]) -> tuple[Register, ...]:
    from cluster.config import load_yaml
    from pipelines.evaluation.register import Register, shipped

    return (*shipped(), *(load_yaml(path, Register) for path in paths))
