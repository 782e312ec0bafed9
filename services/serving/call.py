"""One request on its way through the gateway: what the client wants, what the engine is asked, what was tried.

Bodies are vLLM's pydantic models of OpenAI's requests; nothing here imports vLLM.
"""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, get_args

from services.config import AdmissionConfig
from services.contract import Role
from services.serving.admission import Ticket, estimate, output_tokens
from services.serving.attempt import Attempt, Deadline
from services.serving.openai_errors import ApiError
from services.serving.shadow import Lot
from services.serving.tracing import Trace

TIMEOUT_HEADER = "x-serinus-timeout-s"
ROLE_HEADER = "x-serinus-role"
USABLE_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


@dataclass
class Call:
    """One request and the revisions it was put to, in order."""

    body: Any
    method: str
    request_id: str
    place: float
    """The user's hash in [0, 1)."""
    started_s: float
    deadline: Deadline
    num_body_bytes: int = 0
    rollout: str = ""
    """Id of the rollout that salted `place`."""
    owner: str = ""
    """Who may judge the answer, by a hash."""
    wanted: Role | None = None
    """The role that a tester asked for. Such a request is nobody's sample: it goes on no record."""
    max_tokens: int | None = None
    lot: Lot | None = None
    """Its part in the comparison of a canary without users."""
    trace: Trace | None = None
    """Where the request is traced."""
    ticket: Ticket = field(default_factory=Ticket)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def hides_usage(self) -> bool:
        """The client of this stream has not asked for the event that tells of usage, which the evidence needs."""
        if self.method == "embeddings":  # whose bodies may hold any field
            return False
        return bool(self.body.stream) and not (self.body.stream_options and self.body.stream_options.include_usage)

    def for_revision(self, revision: str) -> Any:
        """The body as the revision's engine gets it."""
        changes: dict[str, Any] = {"model": revision, "request_id": uuid.uuid4().hex}
        if self.hides_usage:
            changes["stream_options"] = _usage_asked(self.body)
        if self.max_tokens is not None and _max_tokens(self.body) is None:
            changes["max_tokens"] = self.max_tokens
        return self.body.model_copy(update=changes)

    def charge(self) -> int:
        """Tokens to charge before the answer is there."""
        max_tokens = 0 if self.method == "embeddings" else self.max_tokens
        return estimate(self.num_body_bytes, max_tokens, _num_answers(self.body))

    def num_tokens(self) -> int:
        """Tokens the request took: by vLLM's count, else by the body's size and the chunks that came."""
        watch = self.attempts[-1].watch
        usage = watch.usage
        if usage:
            return int(usage.get("prompt_tokens") or 0) + int(usage.get("completion_tokens") or 0)
        if watch.status >= 400 and not (watch.timed_out or watch.cancelled):
            return 0
        return estimate(self.num_body_bytes, 0, 1) + watch.num_output_chunks


def bounded(body: Any, config: AdmissionConfig) -> int | None:
    """The length of each answer to ask for; None leaves it to the engine.

    Raises:
        ApiError: 400, more tokens or more choices than allowed.
    """
    return output_tokens(_max_tokens(body), getattr(body, "n", None) or 1, config)


def _max_tokens(body: Any) -> int | None:
    """As the client has it: a chat has a newer name for it that goes first, a completion 16 by default."""
    newer = getattr(body, "max_completion_tokens", None)
    return getattr(body, "max_tokens", None) if newer is None else newer


def _num_answers(body: Any) -> int:
    prompt = getattr(body, "prompt", None)
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return max(1, getattr(body, "n", None) or 1) * (len(prompt) if several and prompt else 1)


def deadline_of(header: str | None, timeout_s: float, started_s: float) -> Deadline:
    """The gateway's patience, or the client's own where that is shorter.

    Raises:
        ApiError: 400, the header is no number of seconds.
    """
    if header is None:
        return Deadline(started_s + timeout_s, timeout_s)
    try:
        wanted_s = float(header)
    except ValueError:
        wanted_s = math.nan
    if not wanted_s > 0:
        raise ApiError(400, f"{TIMEOUT_HEADER} must be a number of seconds above 0", param=TIMEOUT_HEADER)
    if wanted_s >= timeout_s:
        return Deadline(started_s + timeout_s, timeout_s)
    return Deadline(started_s + wanted_s, wanted_s, by_client=True)


def request_id_of(given: str | None) -> str:
    """The request's id, as Serve gives or passes it on; one of odd form by its hash, so that it can be found again."""
    if given and not USABLE_ID.fullmatch(given):
        return hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return given or uuid.uuid4().hex


def _usage_asked(body: Any) -> Any:
    """The stream's options with usage asked for, in vLLM's own type, which moves from version to version."""
    options_type = get_args(type(body).model_fields["stream_options"].annotation)[0]
    options = body.stream_options or options_type()
    return options.model_copy(update={"include_usage": True})
