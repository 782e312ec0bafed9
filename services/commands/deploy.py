"""Putting the stable revision behind the gateway, in a cluster that is joined."""

from __future__ import annotations

from pathlib import Path

from cluster import registry
from cluster.progress import say
from cluster.storage import Storage
from services.commands.recipe import ServedRecipe
from services.commands.record import key_changes, note
from services.control.orders import ensure_controller


def deploy(loaded: ServedRecipe, storage: Storage, recipe: Path) -> str:
    """Returns where the model answers."""
    from services.control.deploy import check_control, deploy_control
    from services.rollout import controller
    from services.rollout.receivers import publish_receivers
    from services.serving import app as serving

    controller.check_renewal(storage, loaded.name)
    check_control(loaded.serve)
    stable = registry.resolve(storage, loaded.name, "stable")
    say("deploy", f"starting {stable.revision} and the gateway")
    with key_changes(storage, loaded.name):
        serving.deploy(loaded.name, stable, loaded.serve, storage)
    controller.ensure_traffic(storage, loaded.name, stable.revision)
    publish_receivers(storage, loaded.name, loaded.notify)
    ensure_controller(loaded.name, storage, renewed=True)
    controller.ensure_probes(storage, loaded.name)
    serving.wait_gateway(loaded.name, loaded.serve, storage.location)
    with key_changes(storage, loaded.name):
        if url := deploy_control(loaded.name, loaded.serve, loaded.rollout, storage):
            say("deploy", f"the control API answers at {url}")
    message = f"gateway and stable revision {stable.revision}, by {recipe.name}"
    note(storage, loaded.name, "deployed", message, stable=stable.revision)
    return serving.gateway_url(loaded.serve)
