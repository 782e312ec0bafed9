"""`serinus keys`: who may ask the gateway, and how much; who may use the control API, and for what."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.command_line import RecipeOption
from cluster.errors import ConfigError
from cluster.storage import open_storage
from services.commands.recipe import ReadServed, ServedRecipe
from services.commands.record import key_changes
from services.contract import ControlRole

if TYPE_CHECKING:
    from services.serving.keys import KeyKind

OfControl = Annotated[bool, typer.Option("--control", help="of the control API, not of the gateway")]


def register(app: typer.Typer, read_recipe: ReadServed) -> None:
    """Put the commands among those of `app`."""

    @app.command("add")
    def add_key(
        name: Annotated[str, typer.Argument(help="whose key it is, for logs, metrics and the audit record")],
        *,
        right: Annotated[list[str] | None, typer.Option(help="canary, stable: may ask for that role by header")] = None,
        control: Annotated[
            ControlRole | None, typer.Option(help="a key of the control API instead, which asks no model")
        ] = None,
        requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
        tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="prompt and answer together")] = None,
        recipe: RecipeOption = None,
    ) -> None:
        """Make an API key and print it, once: only its hash is kept, in the file of serve.admission.keys or serve.control.keys."""
        from services.serving import keys as api_keys

        loaded = read_recipe(recipe)
        if control and (right or tokens_per_minute):
            found = "a key of the control API has neither rights nor tokens at the gateway"
            raise ConfigError("--control", found, "leave --right and --tokens-per-minute out, or make two keys")
        limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        file = _keys_file(loaded, "control" if control else "users")
        token = api_keys.add_key(file, name, rights=tuple(right or ()), control=control, **limits)
        print(token)
        _apply(loaded, "control" if control else "users")

    @app.command("apply")
    def apply_keys(recipe: RecipeOption = None) -> None:
        """Put the files of keys in force as they are now, within seconds, without a restart."""
        loaded = read_recipe(recipe)
        if loaded.serve.control is None or loaded.serve.admission.keys is not None:
            _apply(loaded, "users")
        if loaded.serve.control is not None:
            _apply(loaded, "control")

    @app.command("list")
    def list_keys(recipe: RecipeOption = None) -> None:
        """The keys in force, by name: their rights, roles and limits."""
        from services.serving import keys as api_keys

        loaded = read_recipe(recipe)
        for kind in api_keys.DOCUMENTS:
            for key in api_keys.read_keys(open_storage(loaded.storage), loaded.name, kind)[0].keys:
                about = key.model_dump(mode="json", exclude={"name", "sha256"}, exclude_defaults=True)
                print(
                    f"{kind:<9}{key.name:<24}{' '.join(f'{field}={value}' for field, value in about.items())}".rstrip()
                )

    @app.command()
    def revoke(name: str, control: OfControl = False, recipe: RecipeOption = None) -> None:
        """Take a key out of force for good, within seconds, on whatever machine its file lies."""
        from services.serving import keys as api_keys

        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        with key_changes(storage, loaded.name):
            api_keys.revoke_key(storage, loaded.name, "control" if control else "users", name)
        print(f"{name} is revoked: take its entry out of the file too", file=sys.stderr)


def _apply(loaded: ServedRecipe, kind: KeyKind) -> None:
    from services.serving import keys as api_keys

    storage = open_storage(loaded.storage)
    with key_changes(storage, loaded.name):
        found = api_keys.publish_keys(storage, loaded.name, _keys_file(loaded, kind), kind)
    follows = "the control API" if kind == "control" else "a gateway with `admission.keys`"
    print(f"{len(found.keys)} key(s) published for {loaded.name}: {follows} follows", file=sys.stderr)


def _keys_file(loaded: ServedRecipe, kind: KeyKind) -> Path:
    if kind == "control":
        if loaded.serve.control is None:
            remedy = "name a file: `serve: {control: {keys: control-keys.yaml}}`; then serinus deploy RECIPE"
            raise ConfigError("serve.control", "not set: there is no control API", remedy)
        return Path(loaded.serve.control.keys)
    if loaded.serve.admission.keys is None:
        remedy = "name a file: `serve: {admission: {keys: keys.yaml}}`; then serinus deploy RECIPE"
        raise ConfigError("serve.admission.keys", "not set: the gateway asks for no key", remedy)
    return Path(loaded.serve.admission.keys)
