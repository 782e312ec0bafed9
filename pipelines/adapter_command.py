"""`serinus publish-adapter`."""

from __future__ import annotations

from pathlib import Path
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
    def publish_adapter(
        folder: Annotated[Path, typer.Argument(help="PEFT folder: adapter_config.json and adapter_model.safetensors")],
        base: Annotated[str, typer.Option(help="revision or alias whose weights it was trained on")] = "stable",
        recipe: RecipeOption = None,
    ) -> None:
        """Publish a LoRA adapter as the candidate: a canary that needs no engine of its own."""
        from pipelines import adapter, publish

        loaded = read_named(recipe)
        storage = open_storage(loaded.storage)
        on = registry.resolve(storage, loaded.name, base)
        if on.base:  # an adapter itself: what it runs on
            on = registry.resolve(storage, loaded.name, on.base)
        made = adapter.import_adapter(folder, on, storage)
        revision = publish.publish_adapter(on, made, storage)
        out.print(f"{revision.revision}: {made.summary}, on {on.revision}. Next: serinus canary start")
