"""One request at one revision, seen from the gateway: asked, timed, relayed under the public name.

Nothing is passed on before the first token is there: until then a request can be put to someone else, and its user need not know.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cluster.telemetry import bind, logger
from services.contract import RequestRecord, Role
from services.serving.openai_errors import ApiError, from_revision, unavailable
from services.serving.records import Watch, without_usage

log = logger("gateway")


@dataclass(frozen=True)
class Deadline:
    """When the patience for a whole answer ends."""

    at_s: float
    """On time.monotonic's clock."""
    timeout_s: float
    by_client: bool = False
    """The client's own patience, shorter than the gateway's: missing it is no fault of the revision."""

    @property
    def error(self) -> ApiError:
        message = f"the model did not answer within {self.timeout_s:g} s"
        return ApiError(504, message, kind="server_error", code="timeout")

    def wait(self) -> asyncio.Timeout:
        return asyncio.timeout(max(0.0, self.at_s - time.monotonic()))


class Attempt:
    """Call `ask` first; then `failure`, `whole` or `relay` say what came.

    Chunks are what Ray's model servers send through a handle: lists of server-sent events, a whole answer (a pydantic
    model with `choices`), or an error (one with `error`).
    """

    def __init__(
        self,
        role: Role,
        revision: str,
        name: str,
        started_s: float,
        deadline: Deadline,
        *,
        first: Deadline | None = None,
        hide_usage: bool = False,
    ) -> None:
        """`first`: when patience for the first chunk ends, if sooner. `hide_usage`: the client did not ask for that event."""
        self.role, self.revision, self._name = role, revision, name
        self._deadline, self._hide_usage = deadline, hide_usage
        self._first_deadline = first if first and first.at_s < deadline.at_s else deadline
        self.watch = Watch(started_s)
        self.failure: ApiError | None = None
        self.lost = False
        """No fault of the request's: its replica went away before the first token, or there is none at the moment."""
        self.replica: str | None = None
        """The one that went away, where Ray tells which."""
        self.whole: dict[str, Any] | None = None
        self._first = ""
        self._chunks: Any = None

    def refuse(self, *, coming: bool = False) -> None:
        """The revision has no replica to ask; `coming`: it will have one again."""
        self.lost = coming
        self._fail(unavailable(f"the model `{self._name}` is not available at the moment"))

    async def ask(self, chunks: Any) -> None:
        """Wait for the first token, or for the end of an answer without one. `chunks` is the handle's response generator."""
        self._chunks = chunks
        bind(revision=self.revision)
        try:
            while not self._begun:
                self._take_first(await self._next(self._first_deadline))
        except asyncio.CancelledError:
            self.cancel()
            raise
        except TimeoutError:
            self._give_up(self._first_deadline)
            self._fail(self._first_deadline.error)
        except Exception as error:  # a dead replica, a full queue, a defect of the model server: all end this attempt
            log.warning("%s failed before its first token: %s", self.revision, _in_short(error))
            self.lost, self.replica = _went_away(error)
            self._fail(_as_api_error(error))

    @property
    def died(self) -> bool:
        """Asked, and gone before the first token."""
        return self.lost and self._chunks is not None

    @property
    def _begun(self) -> bool:
        """A server's first chunk may only name the role: that promises nothing yet."""
        ended = self.failure is not None or self.whole is not None or self.watch.done
        return ended or self.watch.num_output_chunks > 0

    def _take_first(self, chunk: Any) -> None:
        item = chunk[0] if isinstance(chunk, list) and chunk else chunk
        if hasattr(item, "error"):
            self._fail(from_revision(item.error.model_dump(), self.revision, self._name))
        elif hasattr(item, "model_dump"):
            self._take_whole({**item.model_dump(mode="json"), "model": self._name})
        elif chunk:
            text, error = self._taken(chunk)
            self._first += text
            if error:
                self._fail(from_revision(error, self.revision, self._name))
        else:
            self._fail(ApiError(502, "the model server gave no answer", kind="server_error", code="no_answer"))

    def _take_whole(self, answer: dict[str, Any]) -> None:
        try:
            json.dumps(answer, allow_nan=False)
        except ValueError:  # log-probabilities of broken weights: what cannot be sent must not count as answered
            self._fail(ApiError(502, "the model server's answer is no JSON", kind="server_error", code="bad_answer"))
            return
        self.whole = answer
        self.watch.see_whole(answer, time.monotonic())

    async def relay(self) -> AsyncGenerator[str, None]:
        """The stream's events. One that breaks off ends with an error event, as clients expect it."""
        failure = ApiError(500, "the answer broke off", kind="server_error", code="stream_broken")
        try:
            if self._first:
                yield self._first
            while (chunk := await self._next(self._deadline)) is not None:
                text, _ = self._taken(chunk)
                if text:
                    yield text
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise
        except TimeoutError:
            self._give_up(self._deadline)
            failure = self._deadline.error
        except Exception as error:  # the replica died or failed: the status is sent, only the stream can tell
            log.warning("%s broke off: %s", self.revision, _in_short(error))
        if not self.watch.done:
            self.watch.broken = not (self.watch.timed_out or self.watch.cancelled)
            yield f"data: {json.dumps(failure.body)}\n\ndata: [DONE]\n\n"

    async def _next(self, deadline: Deadline) -> Any:
        """The next chunk, None at the end.

        Raises:
            TimeoutError: the deadline is over; a time-out of the model server's own comes as RuntimeError.
        """
        wait = deadline.wait()
        try:
            async with wait:
                return await anext(self._chunks, None)
        except TimeoutError as error:
            if wait.expired():
                raise
            raise RuntimeError("a time-out inside the model server") from error

    def _give_up(self, deadline: Deadline) -> None:
        """Nobody waits any longer: free the model server's slot."""
        self.watch.cancelled = deadline.by_client
        self.watch.timed_out = not deadline.by_client
        self._chunks.cancel()

    def cancel(self) -> None:
        """The client went away: let the model server stop too."""
        self.watch.cancelled = True
        if self._chunks is not None and not self.watch.done:
            self._chunks.cancel()

    def record(
        self,
        now_s: float,
        at: datetime,
        request_id: str,
        place: float,
        *,
        num_body_bytes: int | None = None,
        failed_over: bool,
    ) -> RequestRecord:
        record = self.watch.record(
            now_s,
            at,
            request_id=request_id,
            role=self.role,
            revision=self.revision,
            place=place,
            num_body_bytes=num_body_bytes,
            failed_over=failed_over,
        )
        return record.replace(outcome="unavailable", replica=self.replica) if self.lost else record

    def _taken(self, chunk: Any) -> tuple[str, dict[str, Any] | None]:
        """A chunk, taken note of, as the client gets it; and the error in it, if one is there."""
        text = "".join(chunk) if isinstance(chunk, list) else str(chunk)
        error = self.watch.see_events(text, time.monotonic())
        if self._hide_usage:
            text = without_usage(text)
        # Quotes inside an answer are escaped in JSON, so this text can only be the field itself.
        return text.replace(f'"model":"{self.revision}"', f'"model":"{self._name}"'), error

    def _fail(self, failure: ApiError) -> None:
        self.failure = failure
        self.watch.fail(failure.status, time.monotonic())


def _in_short(error: Exception) -> str:
    """Cut short: Ray's messages may hold whole requests, and what users say is not for logs."""
    return f"{type(error).__name__}: {str(error)[:200].splitlines()[:1]}"


def _went_away(error: Exception) -> tuple[bool, str | None]:
    """Whether the replica, or the machine it was on, is gone; and the replica's id, where the error knows it."""
    from grpc import RpcError
    from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

    # Of gRPC's codes Ray translates UNAVAILABLE alone; errors of the model server's own do not come as gRPC's.
    causes = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, RpcError)
    gone = isinstance(error, causes)
    return gone, getattr(error, "actor_id", None) if gone else None


def _as_api_error(error: Exception) -> ApiError:
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    if isinstance(error, BackPressureError):
        return unavailable("too many requests are waiting; try again")
    if isinstance(error, DeploymentUnavailableError) or _went_away(error)[0]:
        return unavailable("the model server went away; try again")
    return ApiError(500, "the model server failed", kind="server_error", code="internal_error")
