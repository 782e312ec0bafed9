"""`serinus canary start`, `withdraw`, `set`, `promote` and `rollback`: what changes a rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster import config, registry
from cluster.artifacts import Revision
from cluster.command_line import RecipeOption
from cluster.errors import ConfigError
from cluster.progress import say
from cluster.storage import Storage, open_storage
from services.commands.cluster import in_public_cluster
from services.commands.queue import queue_up
from services.commands.recipe import ReadServed, ServedRecipe
from services.commands.record import print_traffic, show_traffic
from services.commands.remote import ServerOption, control_api
from services.control.orders import ensure_controller


def register_start(app: typer.Typer, read_recipe: ReadServed, out: Console) -> None:
    """Put `start` and `withdraw` among the commands of `app`."""

    @app.command()
    def start(
        revision: Annotated[str, typer.Option(help="revision or alias to let in")] = "candidate",
        recipe: RecipeOption = None,
        server: ServerOption = None,
    ) -> None:
        """Load a revision beside stable and begin its rollout with the first step of the recipe (--server: as deployed)."""
        if server is not None:
            print(control_api(server, recipe).start(revision))
            return
        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        candidate = registry.resolve(storage, loaded.name, revision)
        registry.check_engine(storage, candidate)
        if (done := queue_up(loaded, storage, candidate.revision)) is not None:
            with in_public_cluster():
                ensure_controller(loaded.name, storage).wake.remote()
            out.print(f"{done}. It is loaded when its turn comes. See: serinus canary status")
            return
        with in_public_cluster():
            rollout = _begin(loaded, storage, candidate)
        out.print(f"rollout {rollout} of {candidate.revision} began. Follow it: serinus canary watch")

    @app.command()
    def withdraw(recipe: RecipeOption = None, server: ServerOption = None) -> None:
        """Take the candidate that waits for its turn out of its place."""
        if server is not None:
            print(control_api(server, recipe).withdraw())
            return
        from datetime import UTC, datetime

        from services.rollout import waiting

        loaded = read_recipe(recipe)
        who = config.user_name()
        out.print(waiting.withdraw(open_storage(loaded.storage), loaded.name, who, datetime.now(UTC)))


def register_acts(app: typer.Typer, read_recipe: ReadServed, out: Console) -> None:
    """Put what a person does to a rollout among the commands of `app`."""

    @app.command("set")
    def set_weight(weight_percent: float, recipe: RecipeOption = None, server: ServerOption = None) -> None:
        """Hold the canary at WEIGHT_PERCENT of the users until told otherwise."""
        if not 0 <= weight_percent <= 100:
            raise ConfigError("WEIGHT_PERCENT", f"{weight_percent:g} is no share of users", "give one from 0 to 100")
        act("set_weight", recipe, server, weight_percent)

    @app.command()
    def promote(recipe: RecipeOption = None, server: ServerOption = None) -> None:
        """Make the canary stable now, without waiting for evidence."""
        act("promote", recipe, server)

    @app.command()
    def rollback(recipe: RecipeOption = None, server: ServerOption = None) -> None:
        """Take the canary out now; during no rollout, go back to the previous stable revision."""
        act("abort", recipe, server)

    def act(verb: str, recipe: Path | None, server: str | None, *arguments: Any) -> None:
        if server is not None:
            api = control_api(server, recipe)
            getattr(api, verb)(*arguments)
            show_traffic(api.traffic(), out)
            return
        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        with in_public_cluster():
            from services.rollout import controller

            ensure_controller(loaded.name, storage)  # that can load, should none be there
            getattr(controller, verb)(storage, loaded.name, *arguments, who=config.user_name())
        print_traffic(storage, loaded.name, out)


def _begin(loaded: ServedRecipe, storage: Storage, candidate: Revision) -> str:
    """Returns the rollout's id."""
    from services.rollout import controller
    from services.rollout.receivers import publish_receivers
    from services.serving import app as serving

    controller.check_engines(storage, loaded.name, candidate.revision)
    say("canary", f"loading {candidate.revision}")
    serving.deploy_revision(candidate, loaded.serve, storage)
    publish_receivers(storage, loaded.name, loaded.notify)
    ensure_controller(loaded.name, storage)
    keep, who = loaded.serve.keep_revisions, config.user_name()
    return controller.start_rollout(
        storage, loaded.name, candidate.revision, loaded.rollout, keep_revisions=keep, who=who
    )
