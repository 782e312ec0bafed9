"""One revision on real vLLM behind the gateway, asked by OpenAI's own client in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from cluster import registry
from cluster.errors import InputError, ResourceError, StageFailed
from pipelines.config import QuantizeConfig
from pipelines.kv_cache import declared
from pipelines.quantization.hardware import hardware_here
from pipelines.schemes import cannot_serve
from services.config import ProbesConfig
from services.rollout.asking import NoAnswer, ServeAsker
from services.rollout.probes import ProbeItem
from tests.e2e.conftest import NAME, STABLE, Served
from tests.integration.gateway_world import eventually

pytestmark = pytest.mark.e2e

CLIENT = """
import json, sys
import openai

url, name = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="sk-user-1", timeout=120)
question = {"model": name, "messages": [{"role": "user", "content": "Tell me about lists."}], "max_tokens": 12,
            "temperature": 0, "extra_body": {"ignore_eos": True}}
raw = client.chat.completions.with_raw_response.create(**question)
chat = raw.parse()
chunks = list(client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
completion = client.completions.create(model=name, prompt="The list", max_tokens=5, extra_body={"ignore_eos": True})
errors = {}
for model, prompt in (("another", "Hello"), (name, "list " * 2000)):
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
    except openai.APIStatusError as error:
        errors[type(error).__name__] = error.body
print(json.dumps({
    "models": [model.id for model in client.models.list()],
    "headers": dict(raw.headers),
    "chat": chat.model_dump(),
    "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    "stream_models": sorted({chunk.model for chunk in chunks}),
    "stream_tokens": chunks[-1].usage.completion_tokens,
    "completion": completion.model_dump(),
    "errors": errors,
    **asked_for_more(client, name, question),
}))
"""
ASKED_FOR_MORE = """
import time
from concurrent.futures import ThreadPoolExecutor

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


def asked_for_more(client, name, question):
    short = {**question, "max_tokens": 3}
    several = client.chat.completions.create(**{**short, "temperature": 1}, n=2, logprobs=True, top_logprobs=2)
    stopped = client.completions.create(model=name, prompt="The list", max_tokens=200, stop=["e", "a", " "])
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    shaped = client.chat.completions.create(model=name, messages=question["messages"], max_tokens=200,
                                            temperature=0, response_format=schema)
    try:
        client.embeddings.create(model=name, input="hello")
        embedding_error = None
    except Exception as error:
        embedding_error = type(error).__name__
    return {
        "several": several.model_dump(), "stopped": stopped.model_dump(), "shaped": shaped.choices[0].message.content,
        "embedding_error": embedding_error, "slots": slots(client, {**question, "max_tokens": 200}, short),
    }


def slots(client, long, short):
    def took_s(fields, **options):
        began = time.monotonic()
        try:
            client.with_options(max_retries=0).chat.completions.create(**fields, **options)
            return time.monotonic() - began
        except Exception as error:
            return getattr(error, "status_code", type(error).__name__)
    alone_s = took_s(long)
    with ThreadPoolExecutor(16) as pool:  # twice as many as the engine decodes at once, all of them given up
        hasty = {"extra_headers": {"x-serinus-timeout-s": str(alone_s / 4)}}
        given_up = list(pool.map(lambda _: took_s(long, **hasty), range(16)))
    return {"alone_s": alone_s, "given_up": sorted(set(map(str, given_up))), "after_s": took_s(short)}
"""


def test_a_revision_answers_under_the_public_name(
    served: Served,
) -> None:
    from services.serving import app

    stable = registry.resolve(served.storage, NAME, STABLE)
    app.deploy(NAME, stable, served.serving, served.storage)  # runs already: returns at once
    assert app.running_revisions() == [STABLE]

    command = [sys.executable, "-c", ASKED_FOR_MORE + CLIENT, served.url, NAME]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=240).stdout)
    assert told["models"] == [NAME]
    assert told["headers"]["x-serinus-revision"] == STABLE
    assert told["headers"]["x-request-id"]
    assert told["chat"]["model"] == NAME
    assert told["chat"]["usage"]["completion_tokens"] == 12
    assert told["streamed"] == told["chat"]["choices"][0]["message"]["content"] != ""
    assert told["stream_models"] == [NAME]
    assert told["stream_tokens"] == 12
    assert told["completion"]["choices"][0]["text"]
    assert told["errors"]["NotFoundError"]["code"] == "model_not_found"
    assert "context length" in told["errors"]["BadRequestError"]["message"]
    assert [len(choice["logprobs"]["content"]) for choice in told["several"]["choices"]] == [3, 3]
    (stopped,) = told["stopped"]["choices"]
    assert (stopped["finish_reason"], set(stopped["text"]) & {"e", "a", " "}) == ("stop", set())
    assert told["shaped"].lstrip().startswith("{")  # of a random model; it may never come to the closing brace
    assert told["embedding_error"] == "BadRequestError"
    assert told["chat"]["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
    # Sixteen answers were given up after a quarter of the time that one takes. Were they still decoded, eight at a time,
    # the short one would wait for two such rounds.
    assert told["slots"]["given_up"] == ["504"]
    assert told["slots"]["after_s"] < told["slots"]["alone_s"]


def test_probes_ask_a_revision_directly_and_rank_choices_as_the_model_does(served: Served, tiny_model: Path) -> None:
    asker, probes = ServeAsker(lambda revision: revision), ProbesConfig()
    fields = {"scorer": "exact", "max_tokens": 8}
    chat = ProbeItem(id="s/1", messages=({"role": "user", "content": "Lists?"},), **fields)
    written = ProbeItem(id="s/2", prompt="The list", **fields)
    choices = (" is a list", " of modules", " zebra")
    chosen = ProbeItem(id="s/3", prompt="The class", choices=choices, **{**fields, "scorer": "choice"})
    too_long = ProbeItem(id="s/4", prompt="list " * 2000, **fields)

    async def ask() -> tuple[list[str], list[float]]:
        texts = [await asker(STABLE, item, probes) for item in (chat, written, written, chosen)]
        told = [await asker._likelihood(STABLE, str(chosen.prompt), choice, 0) for choice in choices]
        for wrong, item in ((STABLE, too_long), (f"{NAME}-none", written)):
            with pytest.raises(NoAnswer):
                await asker(wrong, item, probes.replace(timeout_s=5))
        return texts, told

    texts, told = asyncio.run(ask())
    assert all(texts)
    assert texts[1] == texts[2]  # at temperature 0
    expected = [_likelihood(tiny_model, "The class", choice) for choice in choices]
    assert told == pytest.approx(expected, rel=0.03)
    assert texts[3] == choices[expected.index(max(expected))]


def _likelihood(model: Path, prompt: str, choice: str) -> float:
    """Log-probability per byte by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    encoded = tokenizer(prompt + choice, return_tensors="pt", return_offsets_mapping=True)
    tokens, ends = encoded["input_ids"], encoded["offset_mapping"][0, :, 1]
    with torch.no_grad():
        logs = torch.log_softmax(net(tokens).logits.float(), dim=-1)[0, :-1]
    own = logs.gather(1, tokens[0, 1:, None])[:, 0]
    return float(own[ends[1:] > len(prompt)].sum()) / len(choice.encode())


def test_a_revision_that_was_judged_with_its_cache_in_fp8_is_served_so(served: Served, tiny_model: Path) -> None:
    from services.serving import app

    asked = QuantizeConfig(scheme="BF16", kv_cache="fp8_unscaled")
    if refused := cannot_serve(asked, hardware_here(0)):
        pytest.skip(refused)
    made = served.publish(f"{NAME}-0000000e", tiny_model, config={"kv_cache": "fp8_unscaled"})
    path = served.storage.root / made.weights / "config.json"
    path.write_text(json.dumps(declared(json.loads(path.read_text()))))
    app.deploy_revision(made, served.serving, served.storage)
    asker = ServeAsker(lambda revision: revision)

    async def told(revision: str) -> list[float]:
        return [await asker._likelihood(revision, "The class", choice, 0) for choice in (" is a list", " of modules")]

    async def both() -> tuple[list[float], list[float]]:
        return await told(STABLE), await told(made.revision)

    try:
        plain, small = asyncio.run(both())
    finally:
        app.remove_revision(made.revision)
    assert small == pytest.approx(plain, rel=0.03)
    assert small != plain  # what the cache has lost


def test_a_killed_controller_of_serve_comes_back_to_the_same_engines(served: Served) -> None:
    """As after the loss of a head. One that takes them for broken would load every model anew (vLLM's import may take Serve's log
    from under a replica, which then fails the new controller's first question)."""
    (killed,), before = processes("ray::ServeController"), processes("ray::ServeReplica:")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: processes("ray::ServeController") not in ([], [killed]), 60)
    eventually(serve_is_running, 60)
    question = {"model": NAME, "messages": [{"role": "user", "content": "Tell me about lists."}], "max_tokens": 2}
    assert httpx.post(f"{served.url}/chat/completions", json=question, timeout=60).status_code == 200
    assert before
    assert processes("ray::ServeReplica:") == before


def serve_is_running() -> bool:
    from ray import serve

    found = serve.status()
    return bool(found.applications) and all(app.status == "RUNNING" for app in found.applications.values())


def processes(title: str) -> list[int]:
    """Ids of those whose title begins so, of this session's cluster."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if " ".join(process.info["cmdline"] or ()).startswith(title) and own(process):
            found.append(process.pid)
    return sorted(found)


def own(process: psutil.Process) -> bool:
    """Whether it descends from this test's cluster: others may run on the machine."""
    with suppress(psutil.Error):
        return process.environ().get("SERINUS_HOME") == os.environ["SERINUS_HOME"]
    return False


def test_a_revision_that_cannot_load_says_why_and_leaves_nothing_running(served: Served, tiny_model: Path) -> None:
    from services.serving import app
    from services.serving.applications import statuses

    broken = served.publish(f"{NAME}-0000000b", tiny_model)
    (served.storage.root / broken.weights / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(StageFailed, match="no-such-model"):
        app.deploy_revision(broken, served.serving, served.storage)
    assert broken.revision not in [name.removeprefix("rev-") for name in statuses()]


def test_what_can_be_seen_before_loading_is_refused_at_once(served: Served, tiny_model: Path) -> None:
    from services.serving import app

    mute = served.publish(f"{NAME}-0000000c", tiny_model)
    for path in (served.storage.root / mute.weights).glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        app.deploy_revision(mute, served.serving, served.storage)
    greedy = served.publish(f"{NAME}-0000000d", tiny_model, engine={"num_gpus": 64})
    with pytest.raises(ResourceError, match="largest node"):
        app.deploy_revision(greedy, served.serving, served.storage)
