"""`serinus canary ... --server URL`: the same through the control API, with a key in the place of Ray's token and a recipe."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import SplitResult, urlsplit

import typer
from pydantic import ValidationError

from cluster import config
from cluster.bearer import authorization
from cluster.errors import ClusterError, ConfigError, InputError
from cluster.redirects import Straight
from cluster.telemetry import printable
from services.contract import Traffic

if TYPE_CHECKING:
    from services.rollout.scribe import History
    from services.rollout.status import RolloutStatus
    from services.rollout.summary import QualitySummary

ServerOption = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="ask this control API, with the key in $SERINUS_API_KEY")
]
KEY_VARIABLE: Final = "SERINUS_API_KEY"
TIMEOUT_S: Final = 120.0
"""Longer than the server waits for a controller."""
MAX_ANSWER_BYTES: Final = 2**26


def control_api(server: str, recipe: Path | None) -> ControlApi:
    """The one that `--server` names.

    Raises:
        ConfigError: a recipe is named too; or see ControlApi.
    """
    if recipe is not None:
        remedy = "leave one of them out: a control API goes by the recipe that it was deployed with"
        raise ConfigError("--recipe", f"says nothing beside --server ({recipe} would not be read)", remedy)
    return ControlApi(server)


class ControlApi:
    """One server, and one key."""

    def __init__(self, server: str) -> None:
        """Raises ConfigError: the address is none, the key would be read by others on its way, or there is none."""
        parts = _address(server)
        plain = parts.scheme == "http"
        if plain and not config.is_loopback(parts.hostname or ""):
            raise ConfigError("--server", "the key would cross the network in the clear", "use https://")
        remedy = "put a key of the control API there: serinus keys add NAME --control ROLE"
        self._server, self._headers = server.rstrip("/"), authorization(KEY_VARIABLE, "--server", remedy)
        way = [urllib.request.ProxyHandler({})] if plain else []
        secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
        self._opener = urllib.request.build_opener(Straight, secure, *way)

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """What it answers.

        Raises:
            InputError: it refuses.
            ClusterError: it does not answer, or not as a control API does.
        """
        address = f"{self._server}/control/v1{path}"
        request = urllib.request.Request(address, headers=self._headers, method=method)  # noqa: S310  # checked
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        remedy = "is that the control API's address, and is it up? See `serinus status` on its head"
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            raise InputError(
                self._server, f"refuses it ({error.code}): {_reason(error)}", _remedy(error.code)
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ClusterError(self._server, f"does not answer ({getattr(error, 'reason', error)})", remedy) from None

    def traffic(self) -> Traffic:
        try:
            return Traffic.model_validate(self._deployed())
        except ValidationError:
            raise self._other_version() from None

    def rollout(self) -> tuple[RolloutStatus, QualitySummary]:
        """The current one, and what is known beside it."""
        from services.rollout.status import RolloutStatus
        from services.rollout.summary import QualitySummary

        found = self.get("/rollouts/current")
        beside = {name: found.pop(name, None) for name in QualitySummary.model_fields}
        try:
            return RolloutStatus.model_validate(found), QualitySummary.model_validate(beside)
        except ValidationError:
            raise self._other_version() from None

    def history(self, last: int | None) -> History:
        from services.audit import Line
        from services.rollout.scribe import History

        found = self.get(f"/audit?last={last or 1000}")
        try:
            lines = tuple((entry.pop("number"), Line.model_validate(entry)) for entry in found["entries"])
        except ValidationError:
            raise self._other_version() from None
        return History(lines=lines, broken=tuple(found["broken"]))

    def start(self, revision: str) -> str:
        return printable(str(self.ask("POST", "/rollouts", {"revision": revision})["message"]))

    def withdraw(self) -> str:
        return printable(str(self.ask("DELETE", "/waiting")["message"]))

    def set_weight(self, weight_percent: float) -> None:
        self.ask("POST", "/rollouts/current/weight", {"weight_percent": weight_percent})

    def promote(self) -> None:
        self.ask("POST", "/rollouts/current/promote")

    def abort(self) -> None:
        """Take the canary out; during no rollout, go back from what is stable now. Of what was looked at, and by fields that no
        version does without: a way out is there for a command of another one, too."""
        rollout = self.get("/rollouts/current") if self.get("/rollouts?last=1")["rollouts"] else None
        if rollout is not None and rollout["ended_at"] is None:
            self.ask("POST", f"/rollouts/{rollout['id']}/rollback")
        else:
            self.ask("POST", "/traffic/revert", {"stable": self._deployed()["stable"]})

    def _deployed(self) -> Any:
        if (found := self.get("/traffic")["traffic"]) is None:
            raise InputError(self._server, "nothing is deployed there", "deploy it first: serinus deploy RECIPE")
        return found

    def _other_version(self) -> ClusterError:
        remedy = "use the server's version, or look with --json"
        return ClusterError(self._server, "is of another version of serinus than this command", remedy)


def _address(server: str) -> SplitResult:
    with suppress(ValueError):  # brackets that do not close, a port that is no number
        parts = urlsplit(server)
        beyond = "@" in parts.netloc or parts.query or parts.fragment or parts.port == 0
        if parts.scheme in ("http", "https") and parts.hostname and not beyond:
            return parts
    raise ConfigError(
        "--server", f"{printable(server) or 'nothing'} is no address", "give one such as https://host:8010"
    )


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(2**16))["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError):
        return error.reason


def _remedy(status: int) -> str:
    match status:
        case 401:
            return f"put a key that is in force into ${KEY_VARIABLE}"
        case 403:
            return "ask somebody with that role, or for a key that has it"
        case _:
            return "see: serinus canary status --server URL"
