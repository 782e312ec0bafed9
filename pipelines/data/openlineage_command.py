"""`serinus data openlineage`: events of all that was made, told again or for the first time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.command_line import RecipeOption

if TYPE_CHECKING:
    from pipelines.config import LifecycleConfig


def register(
    app: typer.Typer, load: Callable[[Path | None], LifecycleConfig], say: Callable[[Iterable[str]], None]
) -> None:
    """Put the command among those of `app`."""

    @app.command("openlineage")
    def data_openlineage(
        recipe: RecipeOption = None,
        send: Annotated[
            bool, typer.Option("--send", help="to the collector that the recipe names; else they are printed")
        ] = False,
    ) -> None:
        """OpenLineage events of all artifacts in the storage, oldest first, one a line."""
        from cluster import openlineage
        from cluster.errors import ClusterError, ConfigError
        from cluster.storage import open_storage

        loaded = load(recipe)
        config, storage = loaded.openlineage, open_storage(loaded.storage)
        if send and config is None:
            raise ConfigError("openlineage", "the recipe names no collector", "add `openlineage: {url: ...}` to it")
        namespace = config.namespace if config else "serinus"
        made = openlineage.everything(storage)
        told = [event for one in made for event in openlineage.events(storage, one, loaded.name, namespace)]
        if not send or config is None:
            for event in told:
                print(json.dumps(event))
            return
        try:
            openlineage.send(config, told)
        except openlineage.NotSent as error:
            raise ClusterError(
                "openlineage", str(error), "see to the collector, then run the same command again"
            ) from None
        say([f"{len(told)} events of {len(made)} artifacts sent"])
