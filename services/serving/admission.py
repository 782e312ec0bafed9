"""Who gets in, and how much of them: limits of keys and the bound on waiting requests. Pure: times are arguments.

Every gateway replica counts for itself. A key's limits are divided by the number of replicas, so that all together keep
them when requests are spread evenly; spread unevenly, a key is refused early, never let in beyond its limit (but for one
request a replica, below which no bucket can be).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.config import AdmissionConfig
from services.serving.keys import ApiKey, KeyFile
from services.serving.openai_errors import ApiError
from services.serving.records import BYTES_PER_TOKEN

ASSUMED_OUTPUT_TOKENS = 256
"""What a request that names no maximum is first charged with."""


@dataclass
class Bucket:
    """A token bucket (Turner, New directions in communications, 1986): `per_minute` in the long run, `capacity` at once.

    So a minute that begins with a full bucket can see twice the rate.
    """

    per_minute: float
    capacity: float
    level: float = field(init=False)
    at_s: float | None = None

    def __post_init__(self) -> None:
        self.level = self.capacity

    def fill(self, now_s: float) -> None:
        if self.at_s is not None:
            self.level = min(self.capacity, self.level + (now_s - self.at_s) * self.per_minute / 60)
        self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        """Until `amount` is there; a full bucket has enough for any request, and owes what is missing."""
        missing = min(amount, self.capacity) - self.level
        return max(0.0, missing * 60 / self.per_minute)


@dataclass
class Allowance:
    """One key's two buckets at this gateway; None: without a limit."""

    requests: Bucket | None
    tokens: Bucket | None

    def buckets(self) -> list[tuple[str, Bucket]]:
        both = {"requests": self.requests, "tokens": self.tokens}
        return [(kind, bucket) for kind, bucket in both.items() if bucket is not None]


@dataclass
class Ticket:
    """A request let in: what it was charged with, and what its answer's headers say of the limits."""

    allowance: Allowance | None = None
    num_tokens: float = 0
    headers: dict[str, str] = field(default_factory=dict)

    def settle(self, num_tokens: int, now_s: float) -> None:
        """The request took `num_tokens` in truth: give back what was charged beyond it, or take the rest."""
        if self.allowance and self.allowance.tokens:
            self.allowance.tokens.fill(now_s)
            self.allowance.tokens.level += self.num_tokens - num_tokens
            self.num_tokens = num_tokens


class Admission:
    """The doorkeeper of one gateway replica, of `num_gateways`."""

    def __init__(self, config: AdmissionConfig, num_gateways: int) -> None:
        self._config, self._share = config, 1 / num_gateways
        self._allowances: dict[str, tuple[ApiKey, Allowance]] = {}
        self._waiting: Counter[str | None] = Counter()

    def owner(self, keys: KeyFile, authorization: str | None) -> ApiKey | None:
        """Whose request it is; None when the gateway is open to all.

        Raises:
            ApiError: 401, no key or a wrong one.
        """
        if self._config.keys is None:
            return None
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("You didn't provide an API key: send it as `Authorization: Bearer KEY`")
        key = keys.owner(token.strip())
        if key is None:
            raise _unauthorized("Incorrect API key provided")
        return key

    def charge(self, key: ApiKey | None, num_tokens: int, now_s: float) -> Ticket:
        """Take one request of `num_tokens` (an estimate) from the key's limits.

        Raises:
            ApiError: 429, one of the limits is reached; nothing was taken.
        """
        if key is None:
            return Ticket()
        allowance = self._allowance(key)
        amounts = {"requests": 1, "tokens": num_tokens}
        for _, bucket in allowance.buckets():
            bucket.fill(now_s)
        for kind, bucket in allowance.buckets():
            if (wait_s := bucket.wait_s(amounts[kind])) > 0:
                raise _limit_reached(kind, bucket, wait_s, _headers(allowance))
        for kind, bucket in allowance.buckets():
            bucket.level -= amounts[kind]
        return Ticket(allowance, num_tokens, _headers(allowance))

    @contextmanager
    def waiting(self, key: ApiKey | None) -> Iterator[None]:
        """A place among those who wait for their first token.

        Raises:
            ApiError: 429, all places are taken, or all that one key may have.
        """
        owner = None if key is None else key.name
        if self.num_waiting >= self._config.max_waiting_requests:
            raise _queue_full("too many requests are waiting at the moment; try again")
        if owner is not None and self._waiting[owner] >= self._config.max_waiting_of_key:
            raise _queue_full("too many requests of this key are waiting at the moment; try again")
        self._waiting[owner] += 1
        try:
            yield
        finally:
            self._waiting[owner] -= 1
            if not self._waiting[owner]:  # keys come and go: what is counted must not grow with all that ever came
                del self._waiting[owner]

    @property
    def num_waiting(self) -> int:
        return self._waiting.total()

    def _allowance(self, key: ApiKey) -> Allowance:
        """Kept while the key's entry stays as it is; a changed limit starts full."""
        known = self._allowances.get(key.name)
        if known is None or known[0] != key:
            known = (key, Allowance(self._bucket(key.requests_per_minute), self._bucket(key.tokens_per_minute)))
            self._allowances[key.name] = known
        return known[1]

    def _bucket(self, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        share = per_minute * self._share
        return Bucket(share, max(1.0, share))


def output_tokens(wanted: int | None, choices: int, config: AdmissionConfig) -> int | None:
    """The answer's length to ask the engine for, per choice; None leaves it to the engine.

    Raises:
        ApiError: 400, more tokens or more choices than the configuration allows.
    """
    if choices > config.max_choices:
        raise ApiError(400, f"n is {choices}, the largest allowed is {config.max_choices}", param="n")
    limit = config.max_output_tokens
    if limit is not None and wanted is not None and wanted > limit:
        raise ApiError(400, f"max_tokens is {wanted}, the largest allowed is {limit}", param="max_tokens")
    return limit if wanted is None else wanted


def estimate(num_body_bytes: int, max_tokens: int | None, choices: int) -> int:
    """Tokens a request is charged with before vLLM's count replaces them."""
    output = ASSUMED_OUTPUT_TOKENS if max_tokens is None else max(0, max_tokens)
    return num_body_bytes // BYTES_PER_TOKEN + choices * output


def check_right(key: ApiKey | None, role: str) -> None:
    """Whether the key may ask for a role.

    Raises:
        ApiError: 400, there is no such role; 403, the key has not that right (nobody has, where there are no keys).
    """
    if role not in ("stable", "canary"):
        raise ApiError(400, "x-serinus-role must be `canary` or `stable`", param="x-serinus-role")
    if key is None or role not in key.rights:
        message = f"x-serinus-role: {role} needs an API key with the right `{role}`"
        raise ApiError(403, message, code="insufficient_permissions", param="x-serinus-role")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _queue_full(message: str) -> ApiError:
    return ApiError(429, message, kind="server_error", code="queue_full", headers={"Retry-After": "1"})


def _limit_reached(kind: str, bucket: Bucket, wait_s: float, headers: dict[str, str]) -> ApiError:
    after = {"Retry-After": str(max(1, math.ceil(wait_s)))}
    message = (
        f"Rate limit reached for {kind}: {bucket.per_minute:g} a minute at this gateway. Try again in {span(wait_s)}."
    )
    return ApiError(429, message, kind=kind, code="rate_limit_exceeded", headers={**headers, **after})


def _headers(allowance: Allowance) -> dict[str, str]:
    """OpenAI's x-ratelimit headers, of this gateway replica's share."""
    found = {}
    for kind, bucket in allowance.buckets():
        found[f"x-ratelimit-limit-{kind}"] = str(math.floor(bucket.capacity))
        found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level)))
        found[f"x-ratelimit-reset-{kind}"] = span(bucket.wait_s(bucket.capacity))
    return found


def span(seconds: float) -> str:
    """A time as OpenAI's headers have it: 350ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"
