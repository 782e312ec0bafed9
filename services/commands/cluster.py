"""The cluster that users reach, as commands join it, and the controller in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.errors import ClusterError
from cluster.storage import Storage


@contextmanager
def in_public_cluster() -> Iterator[None]:
    """Join the cluster that users reach; a private one would vanish with this command."""
    from cluster import session

    if session.public_address() is None:
        remedy = "start one: serinus up; then serinus deploy RECIPE"
        raise ClusterError("cluster", "none is up that could serve", remedy)
    with session.joined():
        yield


def ensure_controller(name: str, storage: Storage, *, renewed: bool = False) -> Any:
    """The controller, which loads a waiting candidate by itself; `renewed`: of this serinus, in the place of another's."""
    from services.rollout import controller
    from services.rollout.applications import RayApplications
    from services.serving.load import load_in_task

    ensure = controller.renew_controller if renewed else controller.ensure_controller
    return ensure(name, storage.location, RayApplications(name, storage.location, load_in_task))
