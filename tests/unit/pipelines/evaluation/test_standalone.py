"""`serinus eval` without a recipe: a served model over a hand-made API, and what is said of wrong tasks and services."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError, InputError, ResourceError
from pipelines.config import EvaluateConfig
from pipelines.evaluation import report_page, standalone
from pipelines.evaluation.endpoint import Endpoint
from pipelines.evaluation.items import Item
from serinus import app
from tests.unit.pipelines.evaluation.safety.world import task_of

Answer = Callable[[httpx.Request], httpx.Response]
CHOICES = [{"id": str(n), "prompt": f"{n} + 1 =", "choices": [str(n + 1), "many"], "answer": 0} for n in range(4)]


class Service:
    """Models of four characters a token, each of which costs a nat; numbers cost nothing."""

    def __init__(self, *models: str) -> None:
        self.models, self.asked = models or ("finch",), []  # type: ignore[var-annotated]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": model} for model in self.models]})
        body = json.loads(request.content)
        self.asked.append((request.url.path, body))
        if request.url.path.endswith("/chat/completions"):
            return httpx.Response(200, json={"choices": [{"message": {"content": "I cannot help."}}]})
        if not body.get("echo"):
            return httpx.Response(
                200, json={"choices": [{"text": " said"}] * body.get("n", 1), "usage": {"completion_tokens": 2}}
            )
        text = body["prompt"]
        offsets = [*range(0, len(text), 4), len(text)]
        costs = [None, *(-float(text[at : at + 4].strip().isalpha()) for at in offsets[1:])]
        return httpx.Response(200, json={"choices": [{"logprobs": {"text_offset": offsets, "token_logprobs": costs}}]})


def endpoint(answer: Answer, **fields: Any) -> Endpoint:
    return Endpoint(
        "http://served.test/v1/", transport=httpx.MockTransport(answer), **{"sleep": lambda s: None, **fields}
    )


def test_a_service_s_scores_and_their_page(tmp_path: Path) -> None:
    choice = task_of(tmp_path, "multiple_choice", CHOICES).replace(name="sums")
    refusal = task_of(tmp_path, "refusal", [{"prompt": "p", "label": "unsafe"}]).replace(name="xs")
    toxic = task_of(tmp_path, "toxicity", [{"prompt": "p"}], num_samples=3).replace(name="tox")
    config = EvaluateConfig(tasks=(choice, refusal, toxic))
    service = Service()
    asked = endpoint(service)
    items = standalone.items_of(config, "tasks.yaml")
    rows = standalone.of_endpoint(asked, items)
    source = standalone.endpoint_evidence(asked)
    found = standalone.reported(config, asked.model, source, items, rows, out=tmp_path / "out")
    values = {(one.score.task, one.score.metric): one.score.value for one in found.scores}
    assert values["sums", "accuracy"] == 1
    assert values["xs", "refusal_rate"] == 1
    assert 0 < values["tox", "expected_maximum_toxicity"] < 0.1, "by the classifier that ships"
    paths = [path for path, _ in service.asked]
    assert paths.count("/v1/chat/completions") == 1
    (sampled,) = [body for _, body in service.asked if body.get("n")]
    assert (sampled["n"], sampled["top_p"], sampled["temperature"]) == (3, 0.9, 1.0)
    assert all(body["add_special_tokens"] is False for path, body in service.asked if path == "/v1/completions")
    page, _ = report_page.write(found, tmp_path / "out")
    assert page.name == "report-finch.html"
    assert (tmp_path / "out" / "items.parquet").is_file()
    assert found.evidence[1].digest in page.read_text()


@pytest.mark.parametrize("chat", [False, True])
def test_a_service_is_told_four_ends_and_the_text_is_cut_at_all(chat: bool) -> None:
    service = Service()
    ends = ("1", "2", "3", "4", "help", "said")
    item = Item("t", "qa", "1", "p", ("a",), max_new_tokens=5, until=ends, chat=chat)
    (text,) = endpoint(service).write([item])
    assert text.samples == ("I cannot " if chat else " ",)
    assert service.asked[0][1]["stop"] == ["1", "2", "3", "4"]
    endpoint(service).write([replace(item, until=())])
    assert "stop" not in service.asked[1][1]


def test_an_answer_s_likelihood_is_that_of_the_tokens_that_end_in_it(tmp_path: Path) -> None:
    asked = endpoint(Service())
    likelihood = asked._likelihood(("abcdef", "ghij klm"))
    assert (likelihood.nats, likelihood.num_tokens) == (-2, 3)  # efgh and |ij k| and |lm|, of which "ij k" is no word
    assert likelihood.num_bytes == 8
    with pytest.raises(InputError, match="no input embeddings"):
        asked.vectors(["a"])


@pytest.mark.parametrize(
    ("answer", "error", "found"),
    [
        (Service("a", "b"), InputError, r"lists 2 models \(a, b\)"),
        (lambda request: httpx.Response(401, text="no key"), ResourceError, "status 401: no key"),
        (lambda request: httpx.Response(503), ResourceError, "status 503"),
        (lambda request: httpx.Response(200, text="<html>"), ResourceError, "other than JSON"),
    ],
)
def test_services_that_cannot_be_asked(answer: Answer, error: type[Exception], found: str) -> None:
    with pytest.raises(error, match=found):
        endpoint(answer)


def test_a_service_without_echo_and_an_unknown_model() -> None:
    def mute(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        return httpx.Response(200, json={"choices": [{"text": "x", "logprobs": None}]})

    with pytest.raises(InputError, match="tell no log-likelihoods"):
        endpoint(mute)._likelihood(("a", "b"))
    with pytest.raises(InputError, match="no model 'crow'"):
        endpoint(Service(), model="crow")


def test_a_busy_service_is_asked_again() -> None:
    seen: list[int] = []

    def busy(request: httpx.Request) -> httpx.Response:
        seen.append(1)
        return httpx.Response(429) if len(seen) < 3 else Service()(request)

    waited: list[float] = []
    assert endpoint(busy, sleep=waited.append).model == "finch"
    assert len(seen) == 3
    assert waited == [1, 4]


@pytest.mark.parametrize("listed", [[1, 2], {"data": None}, {"data": "abc"}, {"data": [{"name": "m"}]}, {}, 3])
def test_a_list_of_models_in_another_form(listed: object) -> None:
    with pytest.raises(ResourceError, match="in another form than OpenAI's API"):
        endpoint(lambda request: httpx.Response(200, json=listed))


@pytest.mark.parametrize(
    "answered",
    [
        {},
        {"choices": []},
        {"choices": [{"text": "a"}, {"text": "b"}]},
        {"choices": [{"text": None}]},
        {"choices": [{"text": "a"}], "usage": {"completion_tokens": "many"}},
        {"choices": [{"logprobs": {"text_offset": [0, 1], "token_logprobs": [None]}}]},
    ],
)
def test_an_answer_in_another_form(answered: object) -> None:
    def garbage(request: httpx.Request) -> httpx.Response:
        return Service()(request) if request.method == "GET" else httpx.Response(200, json=answered)

    asked = endpoint(garbage)
    with pytest.raises(ResourceError, match="in another form than OpenAI's API"):
        asked.write([Item("t", "qa", "1", "p", ("a",))])
    if "text" not in json.dumps(answered) or "offset" in json.dumps(answered):  # texts alone: no echo, told apart above
        with pytest.raises(ResourceError, match="in another form than OpenAI's API"):
            asked._likelihood(("p", "a"))


def test_secrets_that_would_show_or_could_not_be_sent() -> None:
    with pytest.raises(InputError, match="holds a name or password") as caught:
        Endpoint("https://me:hidden@served.test/v1", sleep=lambda s: None)
    assert "hidden" not in str(caught.value)


def test_a_model_s_name_is_text_in_the_page(tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(task_of(tmp_path, "refusal", [{"prompt": "p", "label": "unsafe"}]),))
    asked = endpoint(Service("<b onclick=1>m</b>"))
    items = standalone.items_of(config, "tasks.yaml")
    rows = standalone.of_endpoint(asked, items)
    source = standalone.endpoint_evidence(asked)
    report = standalone.reported(config, asked.model, source, items, rows, out=tmp_path / "out")
    assert "<b onclick" not in report_page.page(report)


def test_what_would_break_off_late_is_said_first(tmp_path: Path) -> None:
    toxic = task_of(tmp_path, "toxicity", [{"prompt": "p"}])
    scorer = {"kind": "http", "url": "http://scorer.test", "key_env": "NO_SUCH_TOKEN"}
    config = EvaluateConfig.model_validate({"tasks": [{**toxic.model_dump(), "scorer": scorer}]})
    with pytest.raises(ConfigError, match="no variable NO_SUCH_TOKEN"):
        standalone.items_of(config, "tasks.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out: .* cannot be written to"):
        standalone.check_out(tmp_path / "file")
    service = Service()
    asked, words = (
        endpoint(service),
        EvaluateConfig.model_validate({"tasks": [{"kind": "weat", "name": "w", "test": "weat1"}]}),
    )
    items = standalone.items_of(EvaluateConfig(tasks=(toxic, *words.tasks)), "tasks.yaml")
    with pytest.raises(InputError, match="no input embeddings"):
        standalone.of_endpoint(asked, items)
    assert not service.asked


def test_as_a_user_types_it(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text("tasks: [{name: t, kind: perplexity}]\n")
    with pytest.raises(ConfigError, match=r"tasks\[0\]\.path: perplexity without a file") as caught:
        CliRunner().invoke(app, ["eval", str(tmp_path), str(tasks)], catch_exceptions=False)
    assert str(tasks) in caught.value.where
    with pytest.raises(InputError, match="no such folder"):
        CliRunner().invoke(app, ["eval", str(tmp_path / "none"), str(tasks)], catch_exceptions=False)
    arguments = ["eval", "http://127.0.0.1:9/v1", str(tasks), "--key-env", "NO_SUCH_KEY"]
    with pytest.raises(ConfigError, match="no variable NO_SUCH_KEY"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_is_no_model_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    tasks, file = tmp_path / "tasks.yaml", tmp_path / "model.bin"
    file.write_bytes(b"x")
    choice = task_of(tmp_path, "multiple_choice", CHOICES)
    tasks.write_text(json.dumps({"tasks": [choice.model_dump()]}))
    with pytest.raises(InputError, match=r"is a file that is not \.gguf"):
        CliRunner().invoke(app, ["eval", str(file), str(tasks)], catch_exceptions=False)
    arguments = ["eval", "http://127.0.0.1:9/v1", str(tasks), "--engine", "transformers"]
    with pytest.raises(ConfigError, match="a service has its own"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    bad = file.rename(tmp_path / "model.gguf")
    with pytest.raises(InputError, match="cannot be read as a model"):
        CliRunner().invoke(app, ["eval", str(bad), str(tasks), "--out", str(tmp_path / "out")], catch_exceptions=False)
