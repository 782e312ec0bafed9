"""Keys, limits, sizes and deadlines of a gateway that asks for keys, over real HTTP (gateway_world.py)."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.storage import LocalStorage
from services.config import ServingConfig
from services.serving.keys import add_key, publish_keys
from tests.integration.gateway_world import (
    CANARY,
    NAME,
    STABLE,
    apply,
    chat,
    deploy,
    eventually,
    port_of_serve,
    put,
    records_of,
)

pytestmark = pytest.mark.integration

TIMEOUT_S, MAX_WAITING, MAX_OF_KEY = 1.5, 10, 4


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    limits: dict[str, dict[str, Any]] = {
        "user": {},
        "tester": {"rights": ("canary",)},
        "seldom": {"requests_per_minute": 2},
        "little": {"tokens_per_minute": 300},
        "greedy": {},
        "limited": {"requests_per_minute": 30},
        "thrifty": {"tokens_per_minute": 80},
    }
    return path, {name: add_key(path, name, **fields) for name, fields in limits.items()}


@pytest.fixture(scope="module")
def gateway(ray_cluster: str, registry: LocalStorage, evidence: Any, keys: tuple[Path, dict[str, str]]) -> str:
    admission = {
        "keys": str(keys[0]),
        "max_body_bytes": 4096,
        "max_output_tokens": 50,
        "max_choices": 2,
        "max_waiting_requests": MAX_WAITING,
        "waiting_share_percent": 100 * MAX_OF_KEY / MAX_WAITING,
        "timeout_s": TIMEOUT_S,
    }
    shadow = {"percent": 100, "max_concurrent": 1, "timeout_s": 30}
    fields = {"port": port_of_serve(), "show_revision": False, "admission": admission, "shadow": shadow}
    url = deploy(ServingConfig.model_validate(fields), registry)
    eventually(lambda: chat(url, key=keys[1]["user"]).status_code == 200)
    return url


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def test_only_a_known_key_comes_in_and_no_answer_repeats_a_wrong_one(
    gateway: str, keys: tuple[Path, dict[str, str]]
) -> None:
    assert chat(gateway, key=keys[1]["user"]).status_code == 200
    for headers in ({}, {"authorization": "Bearer sk-wrong"}, {"authorization": f"Basic {keys[1]['user']}"}):
        for answer in (
            httpx.get(f"{gateway}/models", headers=headers),
            httpx.post(f"{gateway}/chat/completions", json={"model": NAME, "messages": []}, headers=headers),
            httpx.get(f"{gateway}/nothing", headers=headers),
        ):
            assert answer.status_code == 401
            assert error_of(answer)["code"] == "invalid_api_key"
            assert answer.headers["x-request-id"]
            assert "sk-wrong" not in answer.text


def test_a_new_key_works_and_a_removed_one_stops_without_a_restart(
    gateway: str, registry: LocalStorage, keys: tuple[Path, dict[str, str]]
) -> None:
    before = keys[0].read_text()
    token = add_key(keys[0], "late")
    publish_keys(registry, NAME, keys[0])
    eventually(lambda: chat(gateway, key=token).status_code == 200, 5)
    keys[0].write_text(before)
    publish_keys(registry, NAME, keys[0])
    eventually(lambda: chat(gateway, key=token).status_code == 401, 5)


def test_a_key_keeps_to_its_requests_and_learns_when_to_come_back(
    gateway: str, keys: tuple[Path, dict[str, str]]
) -> None:
    answers = [chat(gateway, key=keys[1]["seldom"]) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert error_of(answers[2])["code"] == "rate_limit_exceeded"
    assert 20 <= int(answers[2].headers["retry-after"]) <= 30
    assert chat(gateway, key=keys[1]["user"]).status_code == 200


def test_a_key_keeps_to_its_tokens_by_the_engines_count(gateway: str, keys: tuple[Path, dict[str, str]]) -> None:
    little = keys[1]["little"]
    first = chat(gateway, key=little, max_tokens=50)
    assert first.status_code == 200
    second = chat(gateway, key=little, max_tokens=50)  # the first took 2 tokens, not the 50 it was charged with first
    remaining = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in (first, second)]
    assert abs(remaining[1] - (remaining[0] + 68 - 2 - 68)) <= 25
    # Stopped without a count, a request is charged by its body's size: 170 of the 300 are gone.
    assert chat(gateway, "slow", key=little, n=2, max_tokens=20, user="u" * 600).status_code == 504
    assert chat(gateway, key=little, n=2, max_tokens=20, user="u" * 600).status_code == 429


def test_only_a_key_with_the_right_reaches_the_canary_and_leaves_no_evidence(
    gateway: str, registry: LocalStorage, evidence: Any, keys: tuple[Path, dict[str, str]]
) -> None:
    import ray

    role = {"x-serinus-role": "canary"}
    apply(registry, evidence, None, 0, 1)
    assert chat(gateway, key=keys[1]["tester"], headers=role).status_code == 404
    apply(registry, evidence, CANARY, 0, 1)
    refused = chat(gateway, key=keys[1]["user"], headers=role)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
    assert chat(gateway, key=keys[1]["tester"], headers={"x-serinus-role": "admin"}).status_code == 400
    # Only the canary raises: with it a tester sees the failure itself, which stable would have hidden.
    seen = chat(gateway, f"raise {CANARY}", key=keys[1]["tester"], headers=role)
    assert seen.status_code == 500
    assert chat(gateway, f"raise {CANARY}", key=keys[1]["tester"]).status_code == 200
    after = chat(gateway, key=keys[1]["user"])
    assert records_of(evidence, after.headers["x-request-id"])[0]["revision"] == STABLE
    records, _ = ray.get(evidence.told.remote())
    assert all(record["request_id"] != seen.headers["x-request-id"] for record in records)


def test_the_revision_is_not_told_where_it_is_turned_off(gateway: str, keys: tuple[Path, dict[str, str]]) -> None:
    answer = chat(gateway, key=keys[1]["user"])
    assert "x-serinus-revision" not in answer.headers
    assert answer.headers["x-request-id"]


def test_lengths_and_choices_are_bounded_before_the_engine_is_asked(
    gateway: str, keys: tuple[Path, dict[str, str]]
) -> None:
    user = keys[1]["user"]
    for fields in ({"max_tokens": 51}, {"max_completion_tokens": 51}, {"n": 3}):
        assert chat(gateway, key=user, **fields).status_code == 400
    shown = chat(gateway, "show", key=user).json()["choices"][0]["message"]["content"]
    assert '"max_tokens": 50' in shown


def test_a_body_too_large_is_refused_while_it_streams_in(gateway: str, keys: tuple[Path, dict[str, str]]) -> None:
    declared = chat(gateway, "x" * 5000, key=keys[1]["user"])
    assert (declared.status_code, error_of(declared)["code"]) == (413, "body_too_large")
    host, port = gateway.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {keys[1]['user']}\r\n"
        connection.sendall(head.encode() + b"transfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\n")
        for _ in range(5):  # and never an end
            connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("header", "outcome"), [({}, "timeout"), ({"x-serinus-timeout-s": "0.3"}, "cancelled")])
def test_an_answer_that_misses_its_deadline_frees_its_slot(
    gateway: str, evidence: Any, keys: tuple[Path, dict[str, str]], stream: bool, header: dict[str, str], outcome: str
) -> None:
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name

    began = time.monotonic()
    answer = chat(gateway, "slow", key=keys[1]["user"], headers=header, stream=stream)
    took_s = time.monotonic() - began
    assert answer.status_code == (200 if stream else 504)
    assert '"timeout"' in answer.text
    assert took_s < TIMEOUT_S + 2
    (record,) = records_of(evidence, answer.headers["x-request-id"])
    assert record["outcome"] == outcome
    handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(STABLE))
    eventually(lambda: handle.under_way.remote().result() == 0, 5)


def test_a_deadline_that_is_no_time_is_refused(gateway: str, keys: tuple[Path, dict[str, str]]) -> None:
    for value in ("soon", "-1", "0", "nan"):
        assert chat(gateway, key=keys[1]["user"], headers={"x-serinus-timeout-s": value}).status_code == 400


def test_more_than_the_bound_of_waiting_requests_are_told_to_come_back_and_no_key_takes_all_places(
    gateway: str, registry: LocalStorage, keys: tuple[Path, dict[str, str]]
) -> None:
    put(registry)
    with ThreadPoolExecutor(18) as pool:
        calls = [
            (name, pool.submit(chat, gateway, "slow", key=keys[1][name]))
            for name in ("greedy", "user", "tester")
            for _ in range(6)
        ]
        answers = [(name, call.result()) for name, call in calls]
    waited = Counter(name for name, answer in answers if answer.status_code == 504)
    refused = [answer for _, answer in answers if answer.status_code == 429]
    assert waited.total() == MAX_WAITING
    assert max(waited.values()) == MAX_OF_KEY
    assert len(refused) == 18 - MAX_WAITING
    for answer in refused:
        assert (error_of(answer)["code"], answer.headers["retry-after"]) == ("queue_full", "1")
    assert chat(gateway, key=keys[1]["user"]).status_code == 200


def test_limits_hold_while_many_keys_ask_at_once(gateway: str, keys: tuple[Path, dict[str, str]]) -> None:
    """A flood, wrong keys and bodies too large, beside users who keep to the rules."""
    over = threading.Event()

    def ask(num: int, *, key: str, prompt: str = "hello", **fields: Any) -> list[httpx.Response]:
        body = {"model": NAME, "messages": [{"role": "user", "content": prompt}], **fields}
        headers, url = {"authorization": f"Bearer {key}"}, f"{gateway}/chat/completions"
        with httpx.Client(headers=headers, timeout=30) as session:
            return [session.post(url, json=body) for _ in range(num)]

    def flood() -> list[httpx.Response]:
        answers = []
        while not over.is_set():
            answers += ask(3, key=keys[1]["greedy"], prompt="slow")
        return answers

    asked: dict[str, tuple[int, dict[str, Any]]] = {
        "user": (2, {"num": 15, "key": keys[1]["user"]}),
        "limited": (2, {"num": 25, "key": keys[1]["limited"]}),
        "thrifty": (2, {"num": 30, "key": keys[1]["thrifty"], "max_tokens": 1}),
        "wrong": (1, {"num": 20, "key": "sk-wrong"}),
        "large": (1, {"num": 10, "key": keys[1]["user"], "prompt": "x" * 5000}),
    }
    began = time.monotonic()
    with ThreadPoolExecutor(15) as pool:
        floods = [pool.submit(flood) for _ in range(7)]
        running = {name: [pool.submit(ask, **how) for _ in range(num)] for name, (num, how) in asked.items()}
        try:
            answers = {
                name: [answer for one in several for answer in one.result()] for name, several in running.items()
            }
        finally:
            over.set()
        answers["greedy"] = [answer for one in floods for answer in one.result()]
    minutes = (time.monotonic() - began) / 60
    told = {name: Counter(answer.status_code for answer in given) for name, given in answers.items()}
    print(f"{minutes * 60:.1f} s: " + "; ".join(f"{name} {dict(counts)}" for name, counts in told.items()))
    assert set(told["greedy"]) == {429, 504}
    assert told["greedy"][504] <= MAX_OF_KEY * (1 + minutes * 60 / TIMEOUT_S)
    assert told["user"] == {200: 30}
    assert 30 <= told["limited"][200] <= 30 * (1 + minutes) + 1
    assert 20 <= 2 * told["thrifty"][200] <= 80 * (1 + minutes)  # two tokens each, by the engine's count
    assert told["limited"].keys() == told["thrifty"].keys() == {200, 429}
    assert told["wrong"] == {401: 20}
    assert told["large"] == {413: 10}
    assert all(int(a.headers["retry-after"]) > 0 for given in answers.values() for a in given if a.status_code == 429)


def test_a_copy_to_a_canary_without_users_does_not_touch_the_user(
    gateway: str, registry: LocalStorage, evidence: Any, keys: tuple[Path, dict[str, str]]
) -> None:
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name

    user = keys[1]["user"]
    apply(registry, evidence, CANARY, 0, 1)
    canary = serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(CANARY))
    quick = chat(gateway, key=user)
    copy, answered = sorted(records_of(evidence, quick.headers["x-request-id"], 2), key=lambda record: record["role"])
    assert (copy["shadow"], copy["revision"], copy["outcome"], copy["owner"]) == ("copy", CANARY, "ok", "")
    assert (answered["shadow"], answered["revision"]) == (None, STABLE)
    began = time.monotonic()
    answers = [
        chat(gateway, f"slow {CANARY}", key=user) for _ in range(3)
    ]  # a copy takes 30 s, and there is room for one
    assert time.monotonic() - began < 10
    assert [answer.json()["choices"][0]["message"]["content"] for answer in answers] == ["hello"] * 3
    eventually(lambda: canary.under_way.remote().result() == 1, 5)
    for answer in answers:
        (record,) = records_of(evidence, answer.headers["x-request-id"])
        assert record["revision"] == STABLE
    apply(registry, evidence, None, 0, 1)
