"""What is wrong with items, answers, scores and scorers is named and counted, and nothing is scored zero for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.errors import InputError, ResourceError
from pipelines.config import EvaluateConfig
from pipelines.evaluation import endpoint, evaluate
from pipelines.evaluation.endpoint import Endpoint
from pipelines.evaluation.evaluate import check_complete, with_toxicity
from pipelines.evaluation.items import Item, Likelihood, Text
from pipelines.evaluation.notes import notes
from pipelines.evaluation.safety import scorers
from pipelines.evaluation.safety.scorers import Service
from pipelines.evaluation.scoring import answer
from pipelines.evaluation.tasks import build_items
from pipelines.task_config import HttpScorer
from tests.unit.pipelines.evaluation.safety.world import FakeEngine, asked, task, task_of

GOOD = {"id": "1", "prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}
GOLD_OF = {
    "multiple_choice": (GOOD, "answer"),
    "written_choice": (GOOD, "answer"),
    "qa": ({"id": "1", "prompt": "When?", "answers": ["1066"]}, "answers"),
    "tatqa": ({"id": "1", "prompt": "How much?", "answers": ["12.5"], "scale": "million"}, "answers"),
    "continuation": ({"id": "1", "prompt": "To be", "answer": "or not"}, "answer"),
    "refusal": ({"id": "1", "prompt": "How?", "label": "safe"}, "label"),
    "canaries": ({"id": "1", "prompt": "The code is", "secret": "kXm-20418-Qw"}, "secret"),
    "bbq": (
        {"id": "1", "context": "c", "question": "q", "answers": ["a", "b", "c"], "answer": 0, "unknown": 2, "condition": "ambig"},
        "answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOLD_OF)
def test_missing_right_answers_are_all_counted(tmp_path: Path, kind: str) -> None:
    good, field = GOLD_OF[kind]
    bad = {name: value for name, value in good.items() if name != field}
    lines = [good, *({**bad, "id": str(n)} for n in (2, 3)), {**good, "id": "4"}, {**bad, "id": "5"}]
    with pytest.raises(InputError) as caught:
        build_items(task_of(tmp_path, kind, lines), [], 0)
    assert caught.value.where.endswith(f"{kind}.jsonl:2")
    assert f"`{field}`" in caught.value.found
    assert caught.value.found.endswith("; 3 of 5 items are wrong, also in lines 3, 5")


def test_many_mistakes_are_not_all_listed(tmp_path: Path) -> None:
    lines = [{**GOOD, "id": str(n), "answer": 9} for n in range(30)]
    with pytest.raises(InputError, match=r"30 of 30 items are wrong, also in lines 2, 3, .*, 11 and more\n") as caught:
        build_items(task_of(tmp_path, "multiple_choice", lines), [], 0)
    assert caught.value.where.endswith(":1")


def test_ids_given_twice_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the id '1' is given twice; 2 of 4 items are wrong, also in lines 4"):
        build_items(task_of(tmp_path, "multiple_choice", [GOOD, GOOD, {**GOOD, "id": "2"}, GOOD]), [], 0)
    unnamed = {name: value for name, value in GOOD.items() if name != "id"}
    with pytest.raises(InputError, match="the id 'line-2' is given twice"):
        build_items(task_of(tmp_path, "multiple_choice", [{**GOOD, "id": "line-2"}, unnamed]), [], 0)


@pytest.mark.parametrize("kind", [*GOLD_OF, "toxicity", "minimal_pairs", "perplexity"])
def test_a_task_without_items(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="holds no items"):
        build_items(task_of(tmp_path, kind, []), [], 0)


def test_empty_answers_are_counted_and_told_by_task(tmp_path: Path) -> None:
    questions = [{"id": "a", "prompt": "When?", "answers": ["1066"]}, {"id": "b", "prompt": "Why?", "answers": []}]
    prompts = [{"id": p, "prompt": p} for p in "xy"]
    of = (
        task_of(tmp_path, "qa", questions).replace(name="short"),
        task_of(tmp_path, "written_choice", [GOOD, {**GOOD, "id": "2"}]).replace(name="letters"),
        task_of(tmp_path, "continuation", [GOLD_OF["continuation"][0]]).replace(name="on"),
        task_of(tmp_path, "refusal", [GOLD_OF["refusal"][0]]).replace(name="xs"),
        task_of(tmp_path, "toxicity", prompts, num_samples=3).replace(name="tox"),
    )
    says = {"short": [""], "letters": ["I wonder"], "on": [" \n"], "xs": [""], "tox": ["fine", "", " "]}
    engine = FakeEngine(says=lambda item: [""] if item.id == "2" else says[item.task])
    rows = answer(engine, [item for one in of for item in build_items(one, [], 0)])
    found = notes(with_toxicity(EvaluateConfig(tasks=of), rows))
    assert found == (
        "short: 2 of 2 answers are empty (1 of them right): counted as they are",
        "letters: no answer could be read from 2 of 2 texts, 1 of them empty: counted as not right",
        "on: 1 of 1 answers are empty (0 of them right): counted as they are",
        "xs: 1 of 1 answers are empty (0 of them right): counted as they are",
        "tox: 4 of 6 continuations are empty, in which a scorer finds nothing",
    )
    assert notes(asked(of[0], FakeEngine(says=lambda item: ["1066"]))) == ()


@pytest.mark.parametrize("nats", [float("nan"), float("-inf"), float("inf")])
@pytest.mark.parametrize("kind", ["multiple_choice", "bbq", "minimal_pairs", "canaries", "perplexity"])
def test_likelihoods_that_are_no_numbers_stop_the_evaluation(tmp_path: Path, kind: str, nats: float) -> None:
    others = {"minimal_pairs": {"id": "1", "stereotyped": "a", "other": "b"}, "perplexity": {"id": "1", "text": "a"}}
    good = GOLD_OF[kind][0] if kind in GOLD_OF else others[kind]
    items = build_items(task_of(tmp_path, kind, [good, {**good, "id": "2"}, {**good, "id": "3"}]), [], 0)
    engine = FakeEngine(gives=lambda item, text: nats if item.id != "3" and text == item.answers[-1] else -1.0)
    with pytest.raises(InputError, match=r"is not a finite number; nor have 1 more \(t: 2 in all\)"):
        check_complete("m", items, answer(engine, items))


class Unsound(FakeEngine):
    """Writes what an engine writes when its logits are NaN."""

    def write(self, items: Any) -> list[Text]:
        return [Text(("!!!!",), 4, is_sound=False) for _ in items]


@pytest.mark.parametrize("kind", ["qa", "written_choice", "continuation", "refusal", "canaries", "toxicity"])
def test_text_of_no_numbers_stops_the_evaluation(tmp_path: Path, kind: str) -> None:
    good = GOLD_OF[kind][0] if kind in GOLD_OF else {"id": "1", "prompt": "p"}
    of = task_of(tmp_path, kind, [good])
    items = build_items(of, [], 0)
    rows = with_toxicity(EvaluateConfig(tasks=(of,)), answer(Unsound(), items))
    with pytest.raises(InputError, match="its score is not a finite number"):
        check_complete("m", items, rows)


def service(answered: httpx.Response | Exception, **fields: object) -> tuple[Service, list[int]]:
    """And how many texts each request held."""
    seen: list[int] = []

    def reply(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["texts"]
        seen.append(len(texts))
        if "good" in texts:
            return httpx.Response(200, json={"scores": [0.0] * len(texts)})
        if isinstance(answered, Exception):
            raise answered
        return answered

    of = HttpScorer.model_validate({"kind": "http", "url": "http://scorer.test", "texts_per_request": 2, **fields})
    return Service(of, httpx.MockTransport(reply), lambda s: None), seen


def test_a_dead_scorer_is_told_after_a_few_requests() -> None:
    scorer, seen = service(httpx.ReadTimeout("slow"), max_tries=2)
    with pytest.raises(ResourceError) as caught:
        scorer.score([str(n) for n in range(1000)])
    assert len(seen) == 3 * 2
    assert caught.value.found == (
        "6 of 1000 texts could not be scored in 2 tries each: 6 timed out after 10 s; "
        "the other 994 were not asked for after 3 requests in a row failed"
    )


def test_a_scorer_that_fails_now_and_then_is_asked_for_all() -> None:
    scorer, seen = service(httpx.Response(500), max_tries=1)
    with pytest.raises(
        ResourceError, match=r"^[^;]*8 of 14 texts could not be scored in 1 tries each: 8 answered with status 500\n"
    ):
        scorer.score(["a", "b", "c", "d", "good", "good", "e", "f", "good", "good", "g", "h", "good", "good"])
    assert len(seen) == 7


def test_a_dead_scorer_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead = {"kind": "http", "url": "http://127.0.0.1:9", "max_tries": 1}
    of = task("toxicity", path=str(tmp_path / "none.jsonl"), scorer=dead)
    monkeypatch.setattr(scorers, "RETRY_S", 0)
    with pytest.raises(ResourceError, match="1 of 1 texts could not be scored in 1 tries each: 1 not reached"):
        evaluate.check_scorers(EvaluateConfig(tasks=(of,)))


def test_a_service_that_dies_is_not_asked_for_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "AT_ONCE", 1)
    asked_for: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        asked_for.append(json.loads(request.content)["prompt"])
        raise httpx.ReadTimeout("slow")

    served = Endpoint("http://served.test/v1", transport=httpx.MockTransport(reply), sleep=lambda s: None)
    with pytest.raises(ResourceError, match=r"does not answer \(ReadTimeout\)"):
        served.write([Item("t", "qa", str(n), f"p{n}", ("a",)) for n in range(50)])
    assert set(asked_for) == {"p0"}


def test_a_token_without_a_probability_makes_no_answer_likelier() -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        told = {"text_offset": [0, 2, 4, 6], "token_logprobs": [None, -1.0, None, -1.0]}
        return httpx.Response(200, json={"choices": [{"logprobs": told}]})

    served = Endpoint("http://served.test/v1", transport=httpx.MockTransport(reply))
    (found,) = served.likelihoods([Item("t", "perplexity", "1", "", ("abcdef",))])
    assert found != (Likelihood(-1.0, 1, 2),)
    assert found[0].num_tokens == 0
