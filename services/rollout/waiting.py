"""The candidate that waits for its turn: one a model, since a newer one makes an older one pointless.

    rollouts/<name>/waiting.json    changed by compare-and-set alone

Whoever publishes or starts during a rollout writes it, with or without a cluster; the controller begins with it when the rollout
has ended. Its model server is loaded only then: before, three revisions would share memory that was bought for two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from pydantic import ValidationError

from cluster import registry
from cluster.config import StrictModel
from cluster.errors import Conflict, InputError, SerinusError, StageFailed, UserError
from cluster.storage import ABSENT, Storage
from cluster.telemetry import logger
from services import audit
from services.config import ProbesConfig, RolloutConfig, ServingConfig
from services.rollout import acts
from services.rollout.acts import Applications
from services.rollout.status import RolloutStatus, read_status

log = logger("rollout")

NUM_ATTEMPTS: Final = 20


class Waiting(StrictModel):
    """A rollout that was asked for and has not begun."""

    revision: str
    config: RolloutConfig
    serving: ServingConfig
    """How to load it."""
    keep_revisions: int = 1
    probe_items: str = ""
    """Storage key, see `probes.publish`: the files may lie where the command ran alone."""
    who: str
    at: datetime

    @property
    def replaces(self) -> bool:
        """The rollout under way is to end for it."""
        return self.config.when_busy == "replace"

    def began(self, status: RolloutStatus) -> bool:
        """Whether `status` is this one's rollout: a controller may be killed between beginning it and clearing the place."""
        return (status.candidate, status.asked_at) == (self.revision, self.at)


class Place(StrictModel):
    """Storage has no removal: an empty place says that nobody waits."""

    waiting: Waiting | None = None


def read_waiting(storage: Storage, name: str) -> tuple[Waiting | None, str]:
    """Who waits, and the place's storage version.

    Raises:
        InputError: the place is damaged, or another version wrote it.
    """
    waiting, version, problem = _look(storage, name)
    if problem is not None:
        raise problem
    return waiting, version


def _look(storage: Storage, name: str) -> tuple[Waiting | None, str, InputError | None]:
    """As `read_waiting`, for those who may write over what they cannot read: the last one says why they cannot."""
    blob = storage.read(_key(name))
    if blob is None:
        return None, ABSENT, None
    try:
        return Place.model_validate_json(blob.content).waiting, blob.version, None
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in detail["loc"]) or "document"
        found = f"holds no waiting candidate that this version can read ({place}: {detail['msg']})"
        remedy = "go on with the version that wrote it, or take the candidate out: serinus canary withdraw"
        return None, blob.version, InputError(f"{storage.uri}/{_key(name)}", found, remedy)


def queue_up(storage: Storage, name: str, asked: Waiting, *, always: bool = False) -> str | None:
    """Do as the recipe says if something is in the way of the rollout that is asked for: what was done, for people. None: nothing
    is, so begin. A place that cannot be read is written over.

    Args:
        always: leave it to the controller to load and begin also where nothing is in the way.

    Raises:
        UserError: something is, and the recipe says to refuse; or it is the very revision that is asked for.
        Conflict: others kept changing the place.
    """
    for _ in range(NUM_ATTEMPTS):
        waiting, version, problem = _look(storage, name)
        found = read_status(storage, name)
        status = found[0] if found and not found[0].ended else None
        if waiting is not None and found is not None and waiting.began(found[0]):
            waiting = None
        nothing = status is None and waiting is None
        if nothing and not always:
            return None  # what cannot be read is in nobody's way either
        in_the_way = "its turn, which has come" if nothing else _refuse(status, waiting, asked)
        try:
            _write(storage, name, asked, expect=version)
        except Conflict:
            continue
        done = f"{asked.revision} {'replaces' if asked.replaces and not nothing else 'waits for'} {in_the_way}"
        if waiting is not None:
            done += f", and takes the place of {waiting.revision}, which waited"
        elif problem is not None:
            done += ", and takes the place of one that this version could not read"
        before = waiting.revision if waiting else None
        audit.note(storage, name, "waiting", done, who=asked.who, at=asked.at, candidate=asked.revision, before=before)
        return done
    raise Conflict(f"others want to begin rollouts of {name} all the time")


def _refuse(status: RolloutStatus | None, waiting: Waiting | None, asked: Waiting) -> str:
    """What is in the way, unless that cannot be."""
    if status is not None:
        where, state = f"rollout {status.id}", f"({status.phase} at {status.weight_percent:g} %)"
        if status.candidate == asked.revision:
            raise UserError(where, f"is that of {asked.revision} already {state}", "follow it: serinus canary watch")
        in_the_way = f"the rollout of {status.candidate}"
    else:
        assert waiting is not None
        where, state = f"revision {waiting.revision}", "(its turn has come, and it is being loaded)"
        in_the_way = waiting.revision
    if waiting is not None and waiting.revision == asked.revision and waiting.replaces == asked.replaces:
        raise UserError(f"revision {asked.revision}", "waits for its turn already", "see `serinus canary status`")
    if asked.config.when_busy == "refuse":
        remedy = (
            "wait (serinus canary watch), end it (serinus canary rollback), or set rollout.when_busy to wait or replace"
        )
        raise UserError(where, f"is under way {state}: one at a time", remedy)
    return in_the_way


def withdraw(storage: Storage, name: str, who: str, at: datetime) -> str:
    """Take the waiting candidate out of its place, also one that cannot be read; returns what was done, for people.

    Raises:
        UserError: nobody waits.
    """
    waiting, version, problem = _look(storage, name)
    if waiting is None and problem is None:
        raise UserError(f"model {name}", "no candidate waits", "see `serinus canary status`")
    _write(storage, name, None, expect=version)
    revision = waiting.revision if waiting else None
    message = f"{revision or 'the candidate, of which this version could read nothing,'} does not wait any more"
    audit.note(storage, name, "waiting", message, who=who, at=at, candidate=revision)
    return message


class Begin(Protocol):
    """Begins a rollout; returns its id."""

    def __call__(
        self,
        config: RolloutConfig,
        revision_id: str,
        keep_revisions: int,
        who: str,
        *,
        probe_items: str,
        asked_at: datetime | None,
    ) -> str: ...


CheckProbes = Callable[[ProbesConfig], None]
"""Raises ConfigError where probes run without what they need, as a judge's key."""


class WaitingRoom:
    """The place as the controller uses it. Killed anywhere, the next turn does what is missing."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        applications: Applications,
        clock: Callable[[], datetime],
        check_probes: CheckProbes | None = None,
    ) -> None:
        self._check_probes = check_probes
        self._storage, self._name, self._applications, self._clock = storage, name, applications, clock
        self._unread = ""

    def next(self, last: RolloutStatus | None) -> Waiting | None:
        """Who waits beyond the rollout `last`; the place of one whose rollout that is gets emptied.

        Nobody does in a place that cannot be read: it must stop neither the rollout under way nor the watch after it.
        """
        waiting, version, problem = _look(self._storage, self._name)
        if problem is not None and self._unread != version:  # said once
            log.error("%s", problem)
        self._unread = version if problem is not None else ""
        if waiting is not None and last is not None and waiting.began(last):
            self._clear(waiting)
            return None
        return waiting

    def refuse(self, remedy: str) -> None:
        """Raises UserError if somebody waits."""
        found = read_status(self._storage, self._name)
        if (waiting := self.next(found[0] if found else None)) is not None:
            raise UserError(f"revision {waiting.revision}", "waits and is about to begin: one at a time", remedy)

    def begin(self, last: RolloutStatus | None, begin: Begin) -> float | None:
        """Load who waits and begin with it; returns the seconds until the next turn, None when nobody waits."""
        waiting = self.next(last)
        if waiting is None:
            return None
        try:
            self._tried(waiting)
            if _look(self._storage, self._name)[0] != waiting:  # another one took its place meanwhile
                acts.unload(self._storage, self._name, waiting.revision, self._applications)
                return 0.0
            begin(
                waiting.config,
                waiting.revision,
                waiting.keep_revisions,
                waiting.who,
                probe_items=waiting.probe_items,
                asked_at=waiting.at,
            )
        except Conflict:  # another rollout began first: this one goes on waiting
            return 0.0
        except SerinusError as error:
            self._drop(waiting, error)
        self._clear(waiting)
        return 0.0

    def _load(self, waiting: Waiting) -> None:
        revision = registry.resolve(self._storage, self._name, waiting.revision)
        acts.check_candidate(self._storage, self._name, revision.revision)
        if waiting.probe_items and self._check_probes is not None:  # before minutes of loading
            self._check_probes(waiting.config.probes)
        self._applications.load(revision, waiting.serving, self._storage)

    def _tried(self, waiting: Waiting) -> None:
        """Load it. Whatever that fails of would fail again, each time at the price of a load: it is our own error then."""
        try:
            self._load(waiting)
        except SerinusError:
            raise
        except Exception as error:  # Ray's, pydantic's, a cloud's: loading runs through all of them
            log.exception("%s could not be loaded", waiting.revision)
            raise StageFailed(f"{type(error).__name__}: {str(error)[:500]}") from None

    def _drop(self, waiting: Waiting, error: SerinusError) -> None:
        """What cannot be loaded is not tried again and again: people are told."""
        try:
            acts.unload(self._storage, self._name, waiting.revision, self._applications)
        except (
            Exception
        ) as failure:  # nothing is deployed any more, or Serve is away: people are to be told all the same
            log.warning("%s could not be unloaded: %s", waiting.revision, failure)
        message = f"{waiting.revision} waited and cannot begin: {error}"
        now, revision = self._clock(), waiting.revision
        audit.note(self._storage, self._name, "not_started", message, who="serinus", at=now, candidate=revision)

    def _clear(self, waiting: Waiting) -> None:
        """Unless another one took the place."""
        present, version, _ = _look(self._storage, self._name)
        if present == waiting:
            with contextlib.suppress(Conflict):
                _write(self._storage, self._name, None, expect=version)


def _write(storage: Storage, name: str, waiting: Waiting | None, *, expect: str) -> None:
    storage.write(_key(name), Place(waiting=waiting).model_dump_json(indent=1).encode(), expect=expect)


def _key(name: str) -> str:
    return f"rollouts/{name}/waiting.json"
