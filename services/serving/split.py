"""Which role serves a user: a sticky, monotone split. Pure.

A user's bucket is a salted hash in [0, 1) and the canary has the buckets below its weight. So a user stays in place
while the weight stays, and whoever is on the canary at 1 % is on it at 5 %.
"""

from __future__ import annotations

import hashlib
from typing import Any

from services.contract import Role, Traffic

BUCKET_BITS = 53
"""A float's mantissa: every bucket is exact, and 1.0 is never reached by rounding."""


def user_key(authorization: str | None, body_user: str | None, header_user: str | None, client: str | None) -> str:
    """What a user is told apart by: API key, else the `user` field, else the header, else the connection's address.

    The kind is part of the key, so that nobody takes another's bucket by naming themselves after an address. The result
    may hold an API key: hash it, never log it.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return f"key:{token.strip()}"
    if body_user:
        return f"user:{body_user}"
    if header_user:
        return f"header:{header_user}"
    return f"connection:{client or ''}"


def bucket(user: str, salt: str) -> float:
    """The user's place in [0, 1), uniform over users and independent between salts (BLAKE2b keyed with the salt)."""
    key = hashlib.blake2b(salt.encode()).digest()  # a key has at most 64 bytes, a salt any length
    hashed = hashlib.blake2b(user.encode("utf-8", "surrogatepass"), key=key, digest_size=8).digest()
    return float((int.from_bytes(hashed, "big") >> (64 - BUCKET_BITS)) / 2**BUCKET_BITS)


def on_canary(place: Any, weight_percent: float) -> Any:
    """Whether the canary serves the user at `place`, having `weight_percent` of them; element by element for an array."""
    return place < weight_percent / 100


def role_of(place: float, weight_percent: float) -> Role:
    """The role that serves the user at `place`, the canary having `weight_percent` of them."""
    return "canary" if on_canary(place, weight_percent) else "stable"


def choose(traffic: Traffic, place: float, wanted: Role | None = None) -> tuple[tuple[Role, str], ...]:
    """Roles and revisions to ask in order: the user's own, then stable as the fallback of a canary that fails.

    A role that is `wanted` is asked alone: a tester of the canary wants to see its failures. Empty when there is no canary.
    """
    stable: tuple[Role, str] = ("stable", traffic.stable)
    if wanted == "canary":
        return (("canary", traffic.canary),) if traffic.canary else ()
    if wanted == "stable":
        return (stable,)
    if traffic.canary is None or role_of(place, traffic.weight_percent) == "stable":
        return (stable,)
    return (("canary", traffic.canary), stable)
