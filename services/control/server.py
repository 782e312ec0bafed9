"""The control API in its Serve replica, on the head. Imported only where one is built or runs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from ray import serve

from cluster.code_version import code_version
from cluster.pools import on_pool
from cluster.storage import open_storage
from cluster.telemetry import configure
from services.config import AdmissionConfig
from services.contract import CONTROL
from services.control.desk import Desk, Terms
from services.control.orders import ControllerOrders
from services.control.roles import LEAVE, Refusals
from services.control.routes import application
from services.serving.admission import Admission
from services.serving.keys import ApiKey
from services.serving.listener import Listener
from services.serving.openai_errors import ApiError
from services.serving.watch import KeyWatch

MAX_REQUESTS = 32
"""At once; others are answered 429 before their key is looked at. People and their scripts ask, not users."""
KEY_SHARE_PERCENT = 25
"""Of those places for one key: who looks, or sends a body slowly, must not hold all the places of who rolls back."""
MAX_BODY_BYTES = 2**14
SHUTDOWN_S = 75.0
"""For orders under way when a replica is replaced: longer than a controller that is being restarted takes to answer."""


class Doorkeeper:
    """Who comes in: whoever shows a key in force."""

    max_body_bytes = MAX_BODY_BYTES

    def __init__(self, keys: KeyWatch, file: str, refusals: Refusals) -> None:
        self._keys, self._refusals = keys, refusals
        limits = {"max_waiting_requests": MAX_REQUESTS, "waiting_share_percent": KEY_SHARE_PERCENT}
        self._admission = Admission(AdmissionConfig.model_validate({"keys": file, **limits}), num_gateways=1)

    def owner(self, authorization: str | None) -> ApiKey:
        """Raises ApiError: 401; 429, the key's requests a minute or at once."""
        key = self._admission.owner(self._keys.keys, authorization)
        assert key is not None, "keys are asked for"
        LEAVE.get().enter_context(self._admission.waiting(key))
        self._admission.charge(key, 0, time.monotonic())
        return key

    def refused(self, error: ApiError) -> None:
        self._refusals.at_the_door(error)


class ControlServer:
    """Listens itself, beside Serve's proxies or without them: what steers must not be where users come in."""

    async def __init__(self, name: str, storage_uri: str, terms: Terms, settings: str) -> None:  # type: ignore[misc]  # Serve awaits it
        configure()
        code_version()  # now, as it is imported: later another one may lie on the disk
        control, storage = terms.serving.control, open_storage(storage_uri)
        assert control is not None, "deployed where it is configured"
        self._settings = settings
        keys = KeyWatch(storage, name, "control")
        keys.start()
        refusals = Refusals(storage, name, _now)
        desk = Desk(storage, name, terms, ControllerOrders(storage, name), _now)
        self._listener = Listener(control.host, control.port, MAX_REQUESTS, terms.serving.tls, behind_proxies=False)
        await self._listener.start(application(desk, Doorkeeper(keys, control.keys, refusals), refusals))

    async def __del__(self) -> None:
        """Called by Serve before the process ends."""
        await self._listener.drain()

    async def settings(self) -> str:
        """Digest of what it was deployed with, asked for before deploying it again."""
        return self._settings

    async def check_health(self) -> None:
        """A replica that raises is replaced."""
        self._listener.check()


def build(name: str, storage_uri: str, terms: Terms, settings: str) -> Any:
    """The Serve application. On the head: there commands and the controller run, and loopback is theirs."""
    selector = on_pool("head")
    deployment: Any = serve.deployment(
        ControlServer,
        name=CONTROL,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, **({"label_selector": selector} if selector else {})},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=SHUTDOWN_S,
        max_surge_percent=100,  # a new one is there before an old one goes
    )
    return deployment.bind(name, storage_uri, terms, settings)


def _now() -> datetime:
    return datetime.now(UTC)
