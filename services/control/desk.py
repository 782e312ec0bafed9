"""What the control API does for a request that came in and may: reads the storage, orders of the controller.

One method an endpoint (`routes.ROUTES`); they run in threads, hold nothing between two requests, and answer what becomes JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Path, Query, Request
from pydantic import ConfigDict, Field

from cluster import registry
from cluster.artifacts import Revision
from cluster.config import StrictModel
from cluster.errors import InputError
from cluster.storage import Storage
from services import audit
from services.config import RolloutConfig, ServingConfig
from services.contract import read_traffic
from services.control.orders import Orders
from services.control.roles import proven
from services.rollout import acts, scribe, waiting
from services.rollout.status import RolloutStatus, read_rollout_status, read_status, rollout_ids
from services.rollout.summary import as_json
from services.serving.keys import DOCUMENTS, KeyKind, read_keys, revoke_key
from services.serving.openai_errors import ApiError

ROLLOUT_ID: Final = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9]{6}")
CURRENT: Final = "current"
MAX_LISTED: Final = 1000


async def who_asks(request: Request) -> str:
    return proven(request.state.api_key)


Who = Annotated[str, Depends(who_asks)]
RolloutId = Annotated[str, Path(max_length=40)]
Last = Annotated[int, Query(ge=1, le=MAX_LISTED)]
RevisionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Terms(StrictModel):
    """What a rollout that is begun over the control API goes by: the recipe as it was deployed."""

    rollout: RolloutConfig
    serving: ServingConfig
    probe_items: str = ""
    """Storage key of the probes' items, see `probes.publish`."""


class Body(StrictModel):
    """Of a request."""

    model_config = ConfigDict(defer_build=False)  # FastAPI needs it at once, and warns otherwise


class Start(Body):
    """Of a rollout."""

    revision: RevisionId = "candidate"
    """Or alias."""


class Weight(Body):
    """To hold the canary at."""

    weight_percent: float = Field(ge=0, le=100, strict=True)


class Revert(Body):
    """To the previous revision, from the one that is stable."""

    stable: RevisionId


class Desk:
    """Of one model."""

    def __init__(
        self, storage: Storage, name: str, terms: Terms, orders: Orders, clock: Callable[[], datetime]
    ) -> None:
        self._storage, self._name, self._terms = storage, name, terms
        self._orders, self._clock = orders, clock

    # --- looking ------------------------------------------------------------------------------------------------------

    def traffic(self) -> dict[str, Any]:
        found = read_traffic(self._storage, self._name)
        traffic = found[0].model_dump(mode="json") if found else None
        return {"traffic": traffic, "aliases": registry.aliases(self._storage, self._name)}

    def revisions(self) -> dict[str, Any]:
        found = registry.revisions(self._storage, self._name)
        return {"revisions": [_shown(revision) for revision in found[-MAX_LISTED:]]}

    def rollouts(self, last: Last = 100) -> dict[str, Any]:
        """Ids, the newest first."""
        return {"rollouts": rollout_ids(self._storage, self._name)[::-1][:last]}

    def rollout(self, rollout_id: RolloutId) -> dict[str, Any]:
        """As `serinus canary status --json` prints it."""
        return as_json(self._storage, self._rollout(rollout_id))

    def candidate(self) -> dict[str, Any]:
        """The one that waits for its turn."""
        found, _ = waiting.read_waiting(self._storage, self._name)
        last = read_status(self._storage, self._name, lossy=True)
        if found is None or (last and found.began(last[0])):
            return {"waiting": None}
        return {"waiting": found.model_dump(mode="json", include={"revision", "who", "at"})}

    def history(self, last: Last = 100) -> dict[str, Any]:
        """As `serinus canary history --json` prints it."""
        found = scribe.history(self._storage, self._name, last)
        entries = [{"number": number, **line.model_dump(mode="json")} for number, line in found.lines]
        return {"entries": entries, "broken": list(found.broken)}

    # --- steering -----------------------------------------------------------------------------------------------------

    def start(self, body: Start, who: Who) -> dict[str, Any]:
        """Put a candidate into the place of the one that waits, from which the controller loads it and begins."""
        candidate = self._published(body.revision)
        registry.check_engine(self._storage, candidate)
        acts.check_candidate(self._storage, self._name, candidate.revision)
        self._orders.check_candidate(candidate.revision)
        terms = self._terms
        asked = waiting.Waiting(
            revision=candidate.revision, config=terms.rollout, serving=terms.serving,
            keep_revisions=terms.serving.keep_revisions, probe_items=terms.probe_items, who=who, at=self._clock(),
        )  # fmt: skip
        done = waiting.queue_up(self._storage, self._name, asked, always=True)
        self._orders.wake()
        return {"revision": candidate.revision, "message": done}

    def withdraw(self, who: Who) -> dict[str, Any]:
        return {"message": waiting.withdraw(self._storage, self._name, who, self._clock())}

    def set_weight(self, rollout_id: RolloutId, body: Weight, who: Who) -> dict[str, Any]:
        return _outline(self._orders.set_weight(body.weight_percent, who, self._rollout(rollout_id).id))

    def promote(self, rollout_id: RolloutId, who: Who) -> dict[str, Any]:
        return _outline(self._orders.promote(who, self._rollout(rollout_id).id))

    def rollback(self, rollout_id: RolloutId, who: Who) -> dict[str, Any]:
        status = self._orders.abort(who, self._rollout(rollout_id).id)
        assert status is not None, "of a rollout that is named"
        return _outline(status)

    def revert(self, body: Revert, who: Who) -> dict[str, Any]:
        self._orders.revert(who, body.stable)
        return self.traffic()

    # --- keys ---------------------------------------------------------------------------------------------------------

    def keys(self) -> dict[str, Any]:
        """Names, roles, rights and limits of those in force, and no hash."""
        found: dict[KeyKind, Any] = {kind: read_keys(self._storage, self._name, kind)[0].keys for kind in DOCUMENTS}
        return {
            kind: [key.model_dump(mode="json", exclude={"sha256"}, exclude_defaults=True) for key in keys]
            for kind, keys in found.items()
        }

    def revoke(self, kind: Literal["users", "control"], key_name: Annotated[str, Path(max_length=64)], who: Who) -> Any:
        try:
            revoke_key(self._storage, self._name, kind, key_name)
        except InputError as error:
            raise ApiError(404, str(error), code="key_not_found") from None
        message = f"{'control API: ' if kind == 'control' else ''}revoked: {key_name}"
        audit.note(self._storage, self._name, "keys", message, who=who, at=self._clock())
        return {"message": message}

    # --- what is named in a path --------------------------------------------------------------------------------------

    def _rollout(self, rollout_id: str) -> RolloutStatus:
        """That one, or the current one.

        Raises:
            ApiError: 404.
        """
        found: RolloutStatus | None = None
        if rollout_id == CURRENT:
            current = read_status(self._storage, self._name, lossy=True)
            found = current[0] if current else None
        elif ROLLOUT_ID.fullmatch(rollout_id):  # anything else names no file of ours
            found = read_rollout_status(self._storage, self._name, rollout_id)
        if found is None:
            raise ApiError(404, f"there is no such rollout of {self._name}", code="rollout_not_found")
        return found

    def _published(self, revision: str) -> Revision:
        try:
            return registry.resolve(self._storage, self._name, revision)
        except InputError as error:
            raise ApiError(404, str(error), code="revision_not_found") from None


def _shown(revision: Revision) -> dict[str, Any]:
    return revision.model_dump(mode="json", include={"revision", "made_at", "base"}, exclude_none=True)


def _outline(status: RolloutStatus) -> dict[str, Any]:
    """What an order answers: the decision, and what it was about."""
    fields = {"id", "candidate", "stable", "phase", "weight_percent"}
    return {**status.model_dump(mode="json", include=fields), "decision": status.decisions[-1].model_dump(mode="json")}
