"""Who may do what: a key's role, and a note of each attempt beyond it. Pure but for the log and the audit record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Final, get_args

from cluster.config import PROVEN
from cluster.storage import Storage
from cluster.telemetry import logger
from services import audit
from services.contract import ControlRole
from services.serving.keys import ApiKey
from services.serving.openai_errors import ApiError

log = logger("control")

ROLES: Final[tuple[ControlRole, ...]] = get_args(ControlRole)
"""Each may do what those before it may."""
CLIENT: ContextVar[str] = ContextVar("serinus_control_client", default="an unknown address")
"""Whose request this task answers."""
LEAVE: ContextVar[ExitStack] = ContextVar("serinus_control_leave")
"""Closed when this task's request is answered."""
LOG_EVERY: Final = timedelta(seconds=10)
"""One line tells of all that was refused at the door meanwhile: whoever knocks must not fill the disk."""
RECORD_EVERY: Final = timedelta(hours=1)
"""Between two entries of the audit record about attempts with one key beyond its role."""


def proven(key: ApiKey) -> str:
    """Its owner's name in the audit record, which no command can give itself (`config.user_name`)."""
    return f"{PROVEN}{key.name}"


def check_role(key: ApiKey, needed: ControlRole) -> None:
    """Whether the key's role is that one, or more.

    Raises:
        ApiError: 403.
    """
    if key.control is None or ROLES.index(key.control) < ROLES.index(needed):
        message = f"this needs a key with the role `{needed}`, and yours has the role `{key.control or 'none'}`"
        raise ApiError(403, message, code="insufficient_permissions")


class Refusals:
    """What is noted of attempts that were refused: bounded, whatever comes."""

    def __init__(self, storage: Storage, name: str, clock: Callable[[], datetime]) -> None:
        self._storage, self._name, self._clock = storage, name, clock
        self._told_at: datetime | None = None
        self._num_untold = 0
        self._recorded_at: dict[str, datetime] = {}
        self._noting = threading.Lock()

    def at_the_door(self, error: ApiError) -> None:
        """No key, a wrong one, a body too large: to the log."""
        now = self._clock()
        if _within(LOG_EVERY, self._told_at, now):
            self._num_untold += 1
            return
        more = f", and {self._num_untold} more since the last line" if self._num_untold else ""
        log.warning("refused a request from %s: %s%s", CLIENT.get(), error.message, more)
        self._told_at, self._num_untold = now, 0

    def beyond_role(self, key: ApiKey, what: str) -> None:
        """To the log and, once an hour for a key, to the audit record: its owner is known, and answers for it."""
        now, who = self._clock(), proven(key)
        with self._noting:
            if _within(RECORD_EVERY, self._recorded_at.get(key.sha256), now):
                return
            self._recorded_at[key.sha256] = now
        message = f"{what} is not for the role {key.control}"
        log.warning("refused %s from %s: %s", who, CLIENT.get(), message)
        try:
            audit.note(self._storage, self._name, "refused", message, who=who, at=now, role=key.control)
        except (
            Exception
        ) as error:  # whatever storage raises: it is refused all the same, and the next attempt is on record
            log.warning("not on record: %s", error)
            self._recorded_at.pop(key.sha256, None)


def _within(span: timedelta, since: datetime | None, now: datetime) -> bool:
    """A clock that was set back since must not keep anything quiet."""
    return since is not None and timedelta() <= now - since < span
