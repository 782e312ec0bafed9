"""What is ordered of a model's rollout controller, by the control API as by commands: the same calls."""

from __future__ import annotations

from typing import Any, Protocol

from cluster.storage import Storage
from services.rollout.status import RolloutStatus


class Orders(Protocol):
    """Each raises UserError where it cannot be followed as things stand."""

    def set_weight(self, weight_percent: float, who: str, of: str) -> RolloutStatus: ...

    def promote(self, who: str, of: str) -> RolloutStatus: ...

    def abort(self, who: str, of: str) -> RolloutStatus | None: ...

    def revert(self, who: str, stable: str) -> None: ...

    def check_candidate(self, revision: str) -> None:
        """Before a candidate is put in its place."""
        ...

    def wake(self) -> None:
        """There is something new in storage."""
        ...


def ensure_controller(name: str, storage: Storage, *, renewed: bool = False) -> Any:
    """The controller, which loads a waiting candidate by itself; `renewed`: of this serinus, in the place of another's."""
    from services.rollout import controller
    from services.rollout.applications import RayApplications
    from services.serving.load import load_in_task

    ensure = controller.renew_controller if renewed else controller.ensure_controller
    return ensure(name, storage.location, RayApplications(name, storage.location, load_in_task))


class ControllerOrders:
    """`Orders` in a joined cluster."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name

    def set_weight(self, weight_percent: float, who: str, of: str) -> RolloutStatus:
        from services.rollout import controller

        self._ensured()
        return controller.set_weight(self._storage, self._name, weight_percent, who=who, of=of)

    def promote(self, who: str, of: str) -> RolloutStatus:
        from services.rollout import controller

        self._ensured()
        return controller.promote(self._storage, self._name, who=who, of=of)

    def abort(self, who: str, of: str) -> RolloutStatus | None:
        from services.rollout import controller

        self._ensured()
        return controller.abort(self._storage, self._name, who=who, of=of)

    def revert(self, who: str, stable: str) -> None:
        from services.rollout import controller

        self._ensured()
        controller.revert(self._storage, self._name, who=who, stable=stable)

    def check_candidate(self, revision: str) -> None:
        from services.rollout import controller

        controller.check_engines(self._storage, self._name, revision)

    def wake(self) -> None:
        self._ensured().wake.remote()

    def _ensured(self) -> Any:
        """Before an order: where a deployment has just ended the controller, what an order starts must be able to load, too."""
        return ensure_controller(self._name, self._storage)
