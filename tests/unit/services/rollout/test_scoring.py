"""Scorers on answers whose worth is plain, a pattern that would hang other engines, and judges that like the first place."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cluster.errors import ConfigError
from services.config import JudgeConfig, Scorer
from services.rollout.asking import likelihood
from services.rollout.llm_judge import NoVerdict, asking, compare
from services.rollout.scoring import check_pattern, score


@pytest.mark.parametrize(
    ("scorer", "text", "answers", "worth"),
    [
        ("exact", " Paris\n", ["Paris"], 1),
        ("exact", "Paris.", ["Paris"], 0),
        ("exact", "Rom", ["Rome", "Rom"], 1),
        ("contains", "It is PARIS, of course", ["paris"], 1),
        ("contains", "It is Lyon", ["Paris", "Lyons"], 0),
        ("contains", "STRASSE", ["straße"], 1),
        ("regex", "about 42 km", [r"\b4\d\b"], 1),
        ("regex", "about 420 km", [r"\b4\d\b"], 0),
        ("choice", " two", [" two"], 1),
        ("choice", " one", [" two"], 0),
        ("chrf", "the cat sat", ["the cat sat"], 1),
        ("chrf", "zzz", ["the cat sat"], 0),
    ],
)
def test_answers_are_worth_what_they_should_be(scorer: Scorer, text: str, answers: list[str], worth: float) -> None:
    assert score(scorer, text, answers) == worth


def test_chrf_grades_and_takes_the_best_reference() -> None:
    near = score("chrf", "the cat sat on a mat", ["the cat sat on the mat"])
    assert 0.5 < near < 1
    assert score("chrf", "the cat sat on a mat", ["nothing alike", "the cat sat on the mat"]) == near


def test_a_pattern_that_backtracks_elsewhere_takes_no_time() -> None:
    began_s = time.monotonic()
    assert score("regex", "a" * 5_000 + "!", [r"^(a+)+$"]) == 0  # years, where patterns are tried by backtracking
    assert time.monotonic() - began_s < 5


def test_what_is_no_pattern_is_told() -> None:
    assert check_pattern(r"\d+") is None
    assert check_pattern("(") is not None
    assert check_pattern(r"(a)\1") is not None  # RE2 has no references back


def test_the_likelihood_of_a_choice_is_that_of_its_own_tokens_per_byte() -> None:
    told = {"text_offset": [0, 4, 8, 13, 18], "token_logprobs": [None, -1.0, -2.0, -4.0, -9.0]}
    # "The cat sat" + " down": 11 characters, then 5 (and a token written after them, which is no part of it)
    assert likelihood(told, "The cat sat", " down") == pytest.approx((-2.0 - 4.0) / 5)
    assert math.isnan(likelihood({}, "The", " cat"))


async def _first_is_better(prompt: str) -> str:
    return "A reads well. [[A]]"


async def _now_is_better(prompt: str) -> str:
    return "[[B]] at first sight, but [[A]]" if prompt.index("splendid") < prompt.index("[Answer B]") else "[[B]]"


@pytest.mark.parametrize(
    ("ask", "scores"), [(_first_is_better, (0.5, 0.5)), (_now_is_better, (0.0, 1.0))], ids=["biased", "sees"]
)
def test_both_orders_cancel_a_liking_for_a_place(ask: object, scores: tuple[float, float]) -> None:
    assert asyncio.run(compare(ask, "q", (), "dreadful", "splendid")) == scores  # type: ignore[arg-type]


def test_equal_answers_need_no_judge_and_a_judge_without_a_verdict_is_none() -> None:
    async def silent(prompt: str) -> str:
        return "I would rather not say."

    assert asyncio.run(compare(silent, "q", (), "same", " same ")) == (0.5, 0.5)
    with pytest.raises(NoVerdict):
        asyncio.run(compare(silent, "q", (), "one", "two"))


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        shown = body["messages"][0]["content"]
        known = self.headers["authorization"] == "Bearer s3cret" and self.path == "/v1/chat/completions"
        verdict = "[[A]]" if shown.index("right") < shown.index("wrong") else "[[B]]"
        answer = json.dumps({"choices": [{"message": {"content": verdict}}]}).encode()
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Not on the test's output."""


@pytest.fixture
def judge_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Judge) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def test_a_judge_is_asked_over_http_with_the_key_from_the_environment(
    judge_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = JudgeConfig(url=judge_url, model="m", key_env="JUDGE_KEY")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match="JUDGE_KEY"):
        asking(config)
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    assert asyncio.run(compare(asking(config), "q", (), "wrong", "right")) == (0.0, 1.0)
    monkeypatch.setenv("JUDGE_KEY", "other")
    with pytest.raises(NoVerdict):
        asyncio.run(compare(asking(config), "q", (), "wrong", "right"))
