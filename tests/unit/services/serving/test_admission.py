"""Limits of keys, told as tables of moments; nothing here waits."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import AdmissionConfig
from services.serving.admission import Admission, check_right, estimate, output_tokens, span
from services.serving.keys import ApiKey, KeyFile, hash_of
from services.serving.openai_errors import ApiError


def key(**fields: Any) -> ApiKey:
    return ApiKey.model_validate({"name": "ann", "sha256": hash_of("secret"), **fields})


def refused(admission: Admission, owner: ApiKey, tokens: int, now_s: float) -> ApiError | None:
    try:
        admission.charge(owner, tokens, now_s)
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize("header", [None, "", "secret", "Basic secret", "Bearer", "Bearer ", "Bearer other"])
def test_who_has_no_good_key_stays_outside(header: str | None) -> None:
    closed = Admission(AdmissionConfig(keys="keys.yaml"), 1)
    with pytest.raises(ApiError) as caught:
        closed.owner(KeyFile(keys=(key(),)), header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "other" not in caught.value.message
    assert Admission(AdmissionConfig(), 1).owner(KeyFile(), header) is None


def test_a_good_key_comes_in_and_before_any_was_read_nobody_does() -> None:
    closed = Admission(AdmissionConfig(keys="keys.yaml"), 1)
    assert closed.owner(KeyFile(keys=(key(),)), "bearer  secret ") == key()
    with pytest.raises(ApiError):
        closed.owner(KeyFile(), "Bearer secret")


def test_requests_come_back_with_time() -> None:
    admission, owner = Admission(AdmissionConfig(), 1), key(requests_per_minute=60)
    assert [refused(admission, owner, 0, 0.0) for _ in range(60)] == [None] * 60
    error = refused(admission, owner, 0, 0.0)
    assert error is not None
    assert (error.status, error.code, error.headers["Retry-After"]) == (429, "rate_limit_exceeded", "1")
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused(admission, owner, 0, 0.5) is not None
    assert refused(admission, owner, 0, 1.5) is None
    assert refused(admission, owner, 0, 1.5) is not None


def test_tokens_are_charged_first_by_guess_and_then_by_count() -> None:
    admission, owner = Admission(AdmissionConfig(), 1), key(tokens_per_minute=600)
    ticket = admission.charge(owner, 500, 0.0)
    assert ticket.headers["x-ratelimit-remaining-tokens"] == "100"
    assert refused(admission, owner, 200, 0.0) is not None
    ticket.settle(50, 0.0)  # 550 are there again
    assert refused(admission, owner, 500, 0.0) is None
    error = refused(admission, owner, 100, 0.0)
    assert error is not None
    assert error.headers["Retry-After"] == "5"  # 50 are missing, 10 come a second
    assert error.headers["x-ratelimit-reset-tokens"] == "55s"


def test_a_request_larger_than_the_limit_waits_for_a_full_bucket_and_then_owes() -> None:
    admission, owner = Admission(AdmissionConfig(), 1), key(tokens_per_minute=60)
    assert refused(admission, owner, 120, 0.0) is None
    assert refused(admission, owner, 1, 60.0) is not None
    assert refused(admission, owner, 1, 62.0) is None


def test_what_is_refused_for_its_tokens_does_not_cost_a_request() -> None:
    admission, owner = Admission(AdmissionConfig(), 1), key(requests_per_minute=2, tokens_per_minute=60)
    assert refused(admission, owner, 60, 0.0) is None
    assert refused(admission, owner, 60, 0.0) is not None
    assert refused(admission, owner, 60, 60.0) is None


def test_limits_are_divided_by_the_gateways_and_one_request_always_fits() -> None:
    admission = Admission(AdmissionConfig(), 3)
    owner = key(requests_per_minute=30)
    assert sum(refused(admission, owner, 0, 0.0) is None for _ in range(30)) == 10
    seldom = key(name="ben", requests_per_minute=1)
    assert refused(admission, seldom, 0, 0.0) is None
    error = refused(admission, seldom, 0, 0.0)
    assert error is not None
    assert error.headers["Retry-After"] == "180"


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 400)), max_size=200))
def test_no_sequence_of_requests_gets_more_than_a_bucket_and_its_refill(steps: list[tuple[float, int]]) -> None:
    """At most the capacity and what came back meanwhile."""
    admission, owner = Admission(AdmissionConfig(), 1), key(requests_per_minute=20)
    now_s, let_in = 0.0, 0
    for wait_s, tokens in steps:
        now_s += wait_s
        let_in += refused(admission, owner, tokens, now_s) is None
    assert let_in <= 20 + now_s / 3 + 1e-6


def test_a_changed_limit_counts_at_once() -> None:
    admission = Admission(AdmissionConfig(), 1)
    assert refused(admission, key(requests_per_minute=1), 0, 0.0) is None
    assert refused(admission, key(requests_per_minute=1), 0, 0.0) is not None
    assert refused(admission, key(requests_per_minute=5), 0, 0.0) is None
    assert refused(admission, key(), 0, 0.0) is None


def test_places_among_the_waiting_are_bounded_and_given_back() -> None:
    admission = Admission(AdmissionConfig(max_waiting_requests=1), 1)
    with admission.waiting(None):
        with pytest.raises(ApiError) as caught, admission.waiting(None):
            pass
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
    with pytest.raises(RuntimeError), admission.waiting(key()):
        raise RuntimeError
    assert admission.num_waiting == 0


def test_one_key_cannot_take_all_places_among_the_waiting() -> None:
    admission = Admission(AdmissionConfig(max_waiting_requests=5, waiting_share_percent=60), 1)
    greedy, modest = key(name="ann"), key(name="ben")
    with ExitStack() as places:
        for _ in range(3):
            places.enter_context(admission.waiting(greedy))
        with pytest.raises(ApiError, match="of this key") as caught:
            places.enter_context(admission.waiting(greedy))
        assert (caught.value.status, caught.value.code, caught.value.headers["Retry-After"]) == (429, "queue_full", "1")
        for _ in range(2):
            places.enter_context(admission.waiting(modest))
        with pytest.raises(ApiError, match="too many requests are waiting"):
            places.enter_context(admission.waiting(modest))
    assert admission.num_waiting == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=100), st.integers(1, 8), st.floats(1, 100))
def test_no_order_of_coming_and_going_breaks_the_shares(
    steps: list[tuple[str, bool]], places: int, percent: float
) -> None:
    config = AdmissionConfig(max_waiting_requests=places, waiting_share_percent=percent)
    admission, inside = Admission(config, 1), {name: list[ExitStack]() for name in "abc"}
    for name, comes in steps:
        if comes:
            stack = ExitStack()
            with suppress(ApiError):
                stack.enter_context(admission.waiting(key(name=name)))
                inside[name].append(stack)
        elif inside[name]:
            inside[name].pop().close()
        assert max(map(len, inside.values())) <= config.max_waiting_of_key
        assert admission.num_waiting == sum(map(len, inside.values())) <= places


@pytest.mark.parametrize(
    ("wanted", "choices", "limit", "expected"),
    [(None, 1, None, None), (7, 1, None, 7), (None, 1, 50, 50), (50, 4, 50, 50), (51, 1, 50, 400), (1, 5, 50, 400)],
)
def test_answers_are_bounded(wanted: int | None, choices: int, limit: int | None, expected: int | None) -> None:
    config = AdmissionConfig(max_output_tokens=limit, max_choices=4)
    if expected == 400:
        with pytest.raises(ApiError) as caught:
            output_tokens(wanted, choices, config)
        assert caught.value.status == 400
    else:
        assert output_tokens(wanted, choices, config) == expected


def test_a_guess_counts_the_body_and_every_choice() -> None:
    assert estimate(400, 10, 3) == 130
    assert estimate(0, None, 1) > 0


@pytest.mark.parametrize(
    ("owner", "role", "status"),
    [
        (key(rights=("canary",)), "canary", None),
        (key(rights=("canary",)), "stable", 403),
        (key(), "canary", 403),
        (None, "canary", 403),
        (key(rights=("canary",)), "admin", 400),
    ],
)
def test_a_role_is_for_keys_with_that_right(owner: ApiKey | None, role: str, status: int | None) -> None:
    if status is None:
        check_right(owner, role)
    else:
        with pytest.raises(ApiError) as caught:
            check_right(owner, role)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.0201, "21ms"), (1.44, "1.5s"), (59.9, "59.9s"), (60, "1m0s"), (361, "6m1s")]
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize("num_gateways", [1, 3])
def test_limits_hold_to_within_one_request_a_gateway_under_concurrent_load(num_gateways: int) -> None:
    """Twelve askers at once, who never rest: each turn of all of them is a quarter of a second on a clock of the test's own."""
    owner = key(requests_per_minute=60)
    gateways = [Admission(AdmissionConfig(), num_gateways) for _ in range(num_gateways)]
    clock_s, let_in = [0.0], [0]

    async def ask(number: int) -> None:
        while clock_s[0] < 120:
            error = refused(gateways[number % num_gateways], owner, 0, clock_s[0])
            let_in[0] += error is None
            await asyncio.sleep(0)

    async def load() -> None:
        askers = [asyncio.create_task(ask(number)) for number in range(12)]
        while clock_s[0] < 120:
            await asyncio.sleep(0)
            clock_s[0] += 0.25
        await asyncio.gather(*askers)

    asyncio.run(load())
    allowed = 60 + 120  # a full bucket, and two minutes at sixty
    assert allowed - num_gateways <= let_in[0] <= allowed + num_gateways


def test_a_keys_places_and_all_places_hold_under_concurrent_load() -> None:
    config = AdmissionConfig(max_waiting_requests=8, waiting_share_percent=60)
    admission, most, served = Admission(config, 1), {"ann": 0, "all": 0}, [0]
    here = {"ann": 0, "bob": 0}

    async def ask(name: str) -> None:
        for _ in range(20):
            with suppress(ApiError), admission.waiting(key(name=name)):
                here[name] += 1
                most["ann"] = max(most["ann"], here["ann"])
                most["all"] = max(most["all"], sum(here.values()))
                await asyncio.sleep(0)
                here[name] -= 1
                served[0] += 1
            await asyncio.sleep(0)

    async def load() -> None:
        await asyncio.gather(*(ask(name) for name in ("ann", "bob") for _ in range(30)))

    asyncio.run(load())
    assert most == {"ann": 5, "all": 8}
    assert served[0] > 0
    assert admission.num_waiting == 0
