"""The split: sticky, monotone, of the right size, and keyed by the user in the order the documentation names."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.contract import Traffic
from services.serving.split import bucket, choose, on_canary, role_of, user_key

Places = npt.NDArray[np.float64]

users = st.text(max_size=50)
weights = st.floats(0, 100)


@given(users, users)
def test_a_bucket_lies_in_the_unit_interval_and_depends_on_the_user_and_the_salt_alone(user: str, salt: str) -> None:
    place = bucket(user, salt)
    assert 0 <= place < 1
    assert place == bucket(user, salt)


@given(users, users, weights, weights)
def test_whoever_is_on_the_canary_stays_there_while_the_weight_grows(
    user: str, salt: str, one: float, two: float
) -> None:
    low, high = sorted((one, two))
    place = bucket(user, salt)
    if role_of(place, low) == "canary":
        assert role_of(place, high) == "canary"


@given(users, users)
def test_weight_0_gives_the_canary_nobody_and_weight_100_everybody(user: str, salt: str) -> None:
    place = bucket(user, salt)
    assert role_of(place, 0) == "stable"
    assert role_of(place, 100) == "canary"


@pytest.fixture(scope="module", params=["", "rollout-7"])
def million(request: pytest.FixtureRequest) -> Places:
    """The places of 10^6 users, of all kinds of keys."""
    kinds = ("key:sk-", "user:", "header:", "connection:10.0.")
    return np.array([bucket(f"{kinds[i % 4]}{i}", request.param) for i in range(1_000_000)])


@pytest.mark.parametrize("weight", [0.037, 0.1, 1, 5, 12.34, 50])
def test_the_share_of_users_is_within_three_sigma_of_the_weight(million: Places, weight: float) -> None:
    n, p = len(million), weight / 100
    assert abs(np.count_nonzero(on_canary(million, weight)) - n * p) <= 3 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("seed", range(5))
def test_no_key_of_a_million_goes_back_to_stable_while_the_weight_grows(million: Places, seed: int) -> None:
    """Random paths: some of tiny fractions of a percent, some of large steps, some that stand still."""
    rng = np.random.default_rng(seed)
    steps = rng.exponential(rng.choice([0.001, 0.1, 5.0], size=150)) * (rng.random(150) < 0.9)
    before = on_canary(million, 0.0)
    assert not before.any()
    for weight in np.minimum(np.cumsum(steps), 100.0):
        now = on_canary(million, float(weight))
        assert not (before & ~now).any()
        before = now
    assert on_canary(million, 100.0).all()


def test_what_holds_for_arrays_holds_for_one_user(million: Places) -> None:
    for place in million[:1000]:
        assert (role_of(float(place), 30.5) == "canary") == bool(on_canary(np.array([place]), 30.5)[0])


def test_another_salt_tries_other_users() -> None:
    n = 20_000
    first = {i for i in range(n) if bucket(f"user:{i}", "a") < 0.05}
    second = {i for i in range(n) if bucket(f"user:{i}", "b") < 0.05}
    expected, sigma = n * 0.0025, math.sqrt(n * 0.0025)
    assert abs(len(first & second) - expected) <= 4 * sigma


def test_salts_differ_beyond_the_length_of_a_hash_key() -> None:
    assert bucket("user:1", "x" * 64 + "1") != bucket("user:1", "x" * 64 + "2")


@pytest.mark.parametrize(
    ("given_as", "expected"),
    [
        (("Bearer sk-1", "u", "h", "10.0.0.1"), "key:sk-1"),
        (("bearer   sk-1 ", None, None, None), "key:sk-1"),
        (("Basic dTpw", "u", "h", "10.0.0.1"), "user:u"),
        (("Bearer ", "u", "h", "10.0.0.1"), "user:u"),
        ((None, "u", "h", "10.0.0.1"), "user:u"),
        ((None, "", "h", "10.0.0.1"), "header:h"),
        ((None, None, None, "10.0.0.1"), "connection:10.0.0.1"),
        ((None, None, None, None), "connection:"),
    ],
)
def test_the_user_is_the_key_else_the_field_else_the_header_else_the_connection(
    given_as: tuple[str | None, str | None, str | None, str | None], expected: str
) -> None:
    assert user_key(*given_as) == expected


def test_kinds_of_users_do_not_collide() -> None:
    assert user_key("Bearer x", None, None, None) != user_key(None, "x", None, None)


def traffic(canary: str | None, weight: float) -> Traffic:
    return Traffic(name="m", stable="m-1", canary=canary, weight_percent=weight, changed_at=datetime.now(UTC))


def test_stable_is_asked_after_a_canary_and_alone_without_one() -> None:
    assert choose(traffic("m-2", 10), 0.05) == (("canary", "m-2"), ("stable", "m-1"))
    assert choose(traffic("m-2", 10), 0.10) == (("stable", "m-1"),)
    assert choose(traffic(None, 10), 0.05) == (("stable", "m-1"),)


def test_a_role_that_is_asked_for_is_asked_alone() -> None:
    assert choose(traffic("m-2", 0), 0.9, "canary") == (("canary", "m-2"),)
    assert choose(traffic("m-2", 100), 0.0, "stable") == (("stable", "m-1"),)
    assert choose(traffic(None, 0), 0.0, "canary") == ()
