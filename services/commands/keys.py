"""`serinus keys`: who may ask the gateway, and how much."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.command_line import RecipeOption
from cluster.errors import ConfigError
from cluster.storage import open_storage
from services.commands.recipe import ReadServed, ServedRecipe
from services.commands.record import key_changes


def register(app: typer.Typer, read_recipe: ReadServed) -> None:
    """Put the commands among those of `app`."""

    @app.command("add")
    def add_key(
        name: Annotated[str, typer.Argument(help="whose key it is, for logs and metrics")],
        right: Annotated[list[str] | None, typer.Option(help="canary, stable: may ask for that role by header")] = None,
        requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
        tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="prompt and answer together")] = None,
        recipe: RecipeOption = None,
    ) -> None:
        """Make an API key and print it, once: only its hash is kept, in the file of serve.admission.keys."""
        from services.serving import keys as api_keys

        loaded = read_recipe(recipe)
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        token = api_keys.add_key(_keys_file(loaded), name, rights=tuple(right or ()), **limits)
        print(token)
        _apply(loaded)

    @app.command("apply")
    def apply_keys(recipe: RecipeOption = None) -> None:
        """Put the file of keys in force as it is now, on all gateways within seconds, without a restart."""
        _apply(read_recipe(recipe))


def _apply(loaded: ServedRecipe) -> None:
    from services.serving import keys as api_keys

    storage = open_storage(loaded.storage)
    with key_changes(storage, loaded.name):
        found = api_keys.publish_keys(storage, loaded.name, _keys_file(loaded))
    print(
        f"{len(found.keys)} key(s) published for {loaded.name}: a gateway with `admission.keys` follows",
        file=sys.stderr,
    )


def _keys_file(loaded: ServedRecipe) -> Path:
    if loaded.serve.admission.keys is None:
        remedy = "name a file: `serve: {admission: {keys: keys.yaml}}`; then serinus deploy RECIPE"
        raise ConfigError("serve.admission.keys", "not set: the gateway asks for no key", remedy)
    return Path(loaded.serve.admission.keys)
