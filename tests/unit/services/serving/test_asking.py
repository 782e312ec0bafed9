"""Who answers when replicas die, are away, or take too long: a story for each, with model servers that are lists."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ray.exceptions import ActorUnavailableError

from services.config import AdmissionConfig
from services.contract import Role
from services.serving.asking import MAX_DEATHS, Asking, excused
from services.serving.attempt import Deadline
from services.serving.call import Call
from services.serving.watch import Situation
from tests.unit.services.serving.test_attempt import CHUNK, DONE, ERROR, HANG, STOP, Chunks

ROLE_EVENT = 'data: {"model":"m-2","choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
BOTH: tuple[tuple[Role, str], ...] = (("canary", "m-2"), ("stable", "m-1"))
ALONE: tuple[tuple[Role, str], ...] = (("stable", "m-1"),)
GOOD = ([ROLE_EVENT], [CHUNK, STOP], [DONE])


def died(number: int = 1) -> ActorUnavailableError:
    return ActorUnavailableError("killed", bytes([number] * 16))


class Servers:
    """What each revision sends to the first, the second, ... request it gets."""

    def __init__(self, **answers: list[tuple[Any, ...]]) -> None:
        self.answers = {name.replace("_", "-"): iter(given) for name, given in answers.items()}
        self.asked: list[str] = []
        self.given: list[Chunks] = []

    def put(self, revision: str, call: Call) -> Chunks:
        self.asked.append(revision)
        self.given.append(Chunks(*next(self.answers[revision])))
        return self.given[-1]


def a_call(timeout_s: float = 30) -> Call:
    now_s = time.monotonic()
    body = SimpleNamespace(stream=True, stream_options=None)
    deadline = Deadline(now_s + timeout_s, timeout_s)
    return Call(body, "chat", "id", 0.1, now_s, deadline)


def asked(
    servers: Servers,
    order: tuple[tuple[Role, str], ...],
    *,
    then: Situation | None = None,
    answering: tuple[str, ...] = ("m-1", "m-2"),
    away: tuple[str, ...] = (),
    unheard_of: str = "",
    timeout_s: float = 30,
) -> Call:
    """The call after it was asked; `then` is the situation from the moment it waits for an answer."""
    now = Situation(None, frozenset(answering), dict.fromkeys(away, 0.0))
    call = a_call(timeout_s)
    knows = lambda revision: revision != unheard_of  # noqa: E731
    asking = Asking("m", AdmissionConfig(), servers.put, lambda: then or now, knows=knows, pause_s=0.01)
    asyncio.run(asking.ask(call, order, now))
    return call


def outcomes(call: Call) -> list[tuple[str, bool]]:
    return [(attempt.revision, attempt.failure is None) for attempt in call.attempts]


def test_a_canary_whose_replicas_the_gateway_has_not_heard_of_leaves_its_users_to_stable_without_blame() -> None:
    servers = Servers(m_1=[GOOD])
    call = asked(servers, BOTH, unheard_of="m-2")
    assert outcomes(call) == [("m-2", False), ("m-1", True)]
    assert servers.asked == ["m-1"]
    assert excused(call.attempts[0], Situation(), time.monotonic(), absence_s=0)


def test_stable_is_asked_all_the_same() -> None:
    assert outcomes(asked(Servers(m_1=[GOOD]), ALONE, unheard_of="m-1")) == [("m-1", True)]


@pytest.mark.parametrize("before", [(), ([ROLE_EVENT],)])
def test_a_replica_that_dies_before_a_token_is_replaced_by_another(before: tuple[Any, ...]) -> None:
    call = asked(Servers(m_1=[(*before, died()), GOOD]), ALONE)
    assert outcomes(call) == [("m-1", False), ("m-1", True)]
    first = call.attempts[0]
    assert first.lost
    assert first.replica == "01" * 16
    assert first.watch.num_output_chunks == 0


@pytest.mark.parametrize("failure", [(died(),), ([ROLE_EVENT], died()), ([ROLE_EVENT], [ERROR]), ([ROLE_EVENT],)])
def test_a_canary_that_fails_before_a_token_leaves_its_user_to_stable(failure: tuple[Any, ...]) -> None:
    call = asked(Servers(m_2=[failure], m_1=[GOOD]), BOTH)
    assert outcomes(call) == [("m-2", False), ("m-1", True)]


def test_a_broken_line_to_a_replica_counts_as_its_death() -> None:
    call = asked(Servers(m_1=[([ROLE_EVENT], grpc.RpcError("stream reset")), GOOD]), ALONE)
    assert outcomes(call) == [("m-1", False), ("m-1", True)]
    assert call.attempts[0].replica is None


def test_canary_and_stable_may_die_one_after_the_other() -> None:
    servers = Servers(m_2=[(died(1),)], m_1=[(died(2),), GOOD])
    assert outcomes(asked(servers, BOTH)) == [("m-2", False), ("m-1", False), ("m-1", True)]


def test_a_request_that_kills_whoever_takes_it_is_given_up() -> None:
    servers = Servers(m_1=[(died(number),) for number in range(10)])
    call = asked(servers, ALONE)
    assert len(servers.asked) == MAX_DEATHS
    failure = call.attempts[-1].failure
    assert failure is not None
    assert (failure.status, failure.headers["Retry-After"]) == (503, "1")


def test_after_the_first_token_nothing_is_asked_again() -> None:
    async def relayed() -> tuple[str, list[str]]:
        servers = Servers(m_1=[([ROLE_EVENT], [CHUNK], died())])
        situation, call = Situation(None, frozenset({"m-1"})), a_call()
        await Asking("m", AdmissionConfig(), servers.put, lambda: situation).ask(call, ALONE, situation)
        text = "".join([piece async for piece in call.attempts[-1].relay()])
        assert call.attempts[-1].watch.outcome == "stream_error"
        return text, servers.asked

    text, asked_of = asyncio.run(relayed())
    assert '"error"' in text
    assert text.startswith(ROLE_EVENT)
    assert asked_of == ["m-1"]


def test_an_error_of_the_model_is_not_tried_again() -> None:
    servers = Servers(m_1=[(RuntimeError("out of memory"),), GOOD])
    assert outcomes(asked(servers, ALONE)) == [("m-1", False)]


def test_stable_is_waited_for_while_serve_brings_it_up_and_refused_where_nobody_does() -> None:
    assert outcomes(asked(Servers(m_1=[GOOD]), ALONE, answering=(), away=("m-1",))) == [("m-1", True)]
    absent = asked(Servers(), ALONE, answering=())
    assert absent.attempts[0].failure is not None
    assert not absent.attempts[0].lost


def test_a_canary_that_is_away_costs_its_users_nothing() -> None:
    servers = Servers(m_1=[GOOD])
    call = asked(servers, BOTH, answering=("m-1",), away=("m-2",))
    assert servers.asked == ["m-1"]
    assert call.attempts[0].lost
    assert call.attempts[0].replica is None


def test_who_waits_for_a_canary_whose_last_replica_goes_away_is_answered_by_stable() -> None:
    servers = Servers(m_2=[(HANG,)], m_1=[GOOD])
    began = time.monotonic()
    call = asked(servers, BOTH, then=Situation(None, frozenset({"m-1"}), {"m-2": 0.0}))
    assert time.monotonic() - began < 5
    assert outcomes(call) == [("m-2", False), ("m-1", True)]
    assert call.attempts[0].lost
    assert servers.given[0].cancelled


def test_a_client_that_leaves_a_canary_is_on_record_as_that() -> None:
    async def leave() -> Call:
        servers, now, call = Servers(m_2=[(HANG,)]), Situation(None, frozenset({"m-2"})), a_call()
        asking = asyncio.create_task(Asking("m", AdmissionConfig(), servers.put, lambda: now).ask(call, BOTH, now))
        while not servers.given:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert servers.given[0].cancelled
        return call

    (attempt,) = asyncio.run(leave()).attempts
    assert attempt.watch.outcome == "cancelled"


def test_no_retry_outlives_the_deadline() -> None:
    call = asked(Servers(m_1=[(died(),), (HANG,)]), ALONE, timeout_s=0.3)
    assert [attempt.failure.status for attempt in call.attempts if attempt.failure] == [503, 504]


def test_an_absence_is_excused_for_a_while_and_a_death_or_a_missing_application_never() -> None:
    away, now_s = Situation(None, frozenset({"m-1"}), {"m-2": 100.0}), 130.0
    absent = asked(Servers(m_1=[GOOD]), BOTH, answering=("m-1",), away=("m-2",)).attempts[0]
    assert excused(absent, away, now_s, absence_s=30)
    assert not excused(absent, away, now_s, absence_s=29)
    dead = asked(Servers(m_2=[(died(),)], m_1=[GOOD]), BOTH).attempts[0]
    assert not excused(dead, away, now_s, absence_s=30)
    nowhere = asked(Servers(m_1=[GOOD]), BOTH, answering=("m-1",)).attempts[0]
    assert not excused(nowhere, away, now_s, absence_s=30)
