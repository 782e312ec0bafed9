"""What serving and rollout say to each other: the traffic in force, and one record for each request.

The traffic is one small document in storage, changed by compare-and-set. Gateways read it before they take their first
request and then several times a second, so a change reaches all of them without restarting anything.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from cluster.config import StrictModel
from cluster.errors import Conflict
from cluster.storage import ABSENT, Storage

Role = Literal["stable", "canary"]
ControlRole = Literal["viewer", "operator", "admin"]
"""Of a key of the control API: looks; steers rollouts as well; revokes keys as well."""
Lot = Literal["copy", "beside"]
"""`copy`: a canary's reply to a copied request, which no user sees. `beside`: stable's answer to a request that could have been
copied as well; chance decided before anyone was asked."""

NAMESPACE = "serinus"
"""Of our detached actors."""
APPLICATION_PREFIX = "rev-"
MODEL_DEPLOYMENT = "model"
"""Name of the one deployment in every revision's application."""
GATEWAY, CONTROL = "gateway", "control"
"""Names of the gateway's application and of the control API's, and of their one deployment each."""

Outcome = Literal["ok", "http_error", "stream_error", "empty", "truncated", "timeout", "unavailable", "cancelled"]
"""`http_error`: the answer's status was 400 or more. `stream_error`: an error inside a 200 stream, or a stream that broke
off. `empty`: success without a token. `truncated`: a stream with tokens that ended without a finish_reason. `timeout`: no
whole answer within the gateway's `timeout_s`. `unavailable`: the replica died before the first token, or there was none.
`cancelled`: the client went away, or the patience it had declared itself was at its end (no fault of the revision)."""

HARMFUL: frozenset[Outcome] = frozenset({"http_error", "stream_error", "empty", "truncated", "timeout", "unavailable"})


class Traffic(StrictModel):
    """Who gets which revision. Immutable; every change is a new version."""

    name: str
    """Public name of the model."""
    stable: str
    """Revision id."""
    canary: str | None = None
    weight_percent: float = 0.0
    """Share of users on the canary, 0 to 100."""
    salt: str = ""
    """Id of the last rollout, mixed into the hash of users: not always the same users try what is new."""
    changed_at: datetime
    reason: str = ""
    version: int = 1


class RequestRecord(StrictModel):
    """What a gateway tells of one request that reached a revision.

    A request that failed over has two, under one id. What stable itself refuses (400, 413, 422) has none: it tells nothing
    about a revision, and one client's bad requests must not roll a canary back.
    """

    request_id: str
    revision: str
    role: Role
    bucket: float
    """The user's hash in [0, 1)."""
    outcome: Outcome
    status: int
    ttft_s: float | None
    """From the request's arrival at the gateway to its first answer chunk; None when there was none."""
    duration_s: float
    num_output_chunks: int
    at: datetime
    prompt_tokens: int | None = None
    """By vLLM's count, as the next two. Where it told none, as for an answer that was cut short, a guess by the body's size here,
    None in the others."""
    cached_tokens: int | None = None
    """Of the prompt's tokens, those found in the prefix cache."""
    output_tokens: int | None = None
    """Of all choices together."""
    tpot_s: float | None = None
    """Mean time per output token after the first; None for an answer in one piece and for one of a single chunk."""
    cold: bool = False
    """The revision had no replica when the request came (scaled to zero): its wait is that of a start, and no evidence."""
    failed_over: bool = False
    """The request has two records: a canary failed before its first token, and stable answered in its place."""
    replica: str | None = None
    """The replica that died with this request before its first token. Each death is evidence once, however many requests it
    took along: they were not independent."""
    shadow: Lot | None = None
    """What it is in the comparison of a canary without users (docs/rollouts.md); None: no part of it."""
    rollout: str | None = None
    """Id of the rollout whose traffic placed the user (Traffic.salt); None where it is not told. Not stored: a rollout
    keeps no other's records."""
    owner: str = ""
    """Hash of who may judge the answer (`POST /v1/feedback`): the API key's account. Empty where no keys are asked for. It goes
    to the controller's memory and is never stored."""


class PairedScore(StrictModel):
    """One item answered by both revisions and scored alike."""

    item: str
    """Name of the item. The same item asked again is no new evidence: it counts once in a rollout, the first time."""
    stable: float = Field(ge=0, le=1)
    canary: float = Field(ge=0, le=1)
    at: datetime


def application_name(revision: str) -> str:
    """Of that revision's model server."""
    return APPLICATION_PREFIX + revision


def actor_name(name: str) -> str:
    """Of the rollout controller of the public name `name`: a detached actor in NAMESPACE."""
    return f"serinus-rollout-{name}"


def traffic_key(name: str) -> str:
    return f"registry/{name}/traffic.json"


def read_traffic(storage: Storage, name: str) -> tuple[Traffic, str] | None:
    """The traffic in force and its storage version, or None when nothing is deployed under that name."""
    blob = storage.read(traffic_key(name))
    return (Traffic.model_validate_json(blob.content), blob.version) if blob else None


def write_traffic(storage: Storage, traffic: Traffic, *, expect: str = ABSENT) -> str:
    """Put `traffic` in force if the present storage version is `expect`; returns the new one.

    Raises:
        Conflict: someone else changed it first.
    """
    try:
        return storage.write(traffic_key(traffic.name), traffic.model_dump_json(indent=1).encode(), expect=expect)
    except Conflict:
        raise Conflict(f"the traffic of {traffic.name} was changed by someone else: read it again") from None
