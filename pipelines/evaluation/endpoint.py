"""A served model as an engine: completions of an OpenAI-compatible API, whose echo tells log-likelihoods. No heavy imports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx

from cluster.errors import InputError, ResourceError
from pipelines.evaluation.items import Item, Likelihood, Text, order

A = TypeVar("A")
AT_ONCE = 16
"""Requests under way."""
TRIES = 3
"""Of a request that was not answered or met a full queue (status 429, 502, 503)."""
AS_OFFLINE = {"add_special_tokens": False}
"""vLLM's own field: no start token before a prompt, which would shift the places of all others."""
AGAIN = frozenset({429, 502, 503})
MAX_STOPS = 4
"""Ends of a text that OpenAI's own service takes at most; what is written behind others is cut off here."""
RETRY_S = 1.0
"""Before the second try of a request; four times as long before the third: a full queue needs a moment."""


class Endpoint:
    """`scoring.Engine` over HTTP. It has no input embeddings, and text without a prompt is scored from its second token on."""

    def __init__(
        self, url: str, model: str = "", *, headers: Mapping[str, str] | None = None, seed: int = 0, timeout_s: float = 300,
        transport: httpx.BaseTransport | None = None, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """Ask which models there are.

        Args:
            url: up to and with the version, as http://127.0.0.1:8000/v1.
            model: as /models lists it; empty takes the only one.

        Raises:
            InputError: no such model, or several and none named; a URL that cannot be used.
            ResourceError: nobody answers there.
        """
        if "@" in urlsplit(url).netloc:  # it would stand in the report and in errors
            raise InputError("the service's URL", "holds a name or password", "leave it out; give a key by --key-env")
        self.url, self.seed, self.sleep = url.rstrip("/"), seed, sleep
        # No redirect is followed: the key would go along, to wherever it points.
        self.client = httpx.Client(timeout=timeout_s, transport=transport, headers=headers)
        listed = self._asked("GET", "/models", None, lambda answered: [str(one["id"]) for one in answered["data"]])
        if model and model not in listed:
            raise InputError(f"{self.url}/models", f"no model {model!r}", f"name one of {', '.join(listed) or 'none'}")
        if not model and len(listed) != 1:
            found = f"lists {len(listed)} models ({', '.join(listed)})"
            raise InputError(f"{self.url}/models", found, "name one with --model")
        self.model = model or listed[0]

    def write(self, items: Sequence[Item]) -> list[Text]:
        return _at_once(self._write, items)

    def likelihoods(self, items: Sequence[Item]) -> list[tuple[Likelihood, ...]]:
        asked = [(item.prompt, answer) for item in items for answer in item.answers]
        found = iter(_at_once(self._likelihood, asked))
        return [tuple(next(found) for _ in item.answers) for item in items]

    def vectors(self, words: Sequence[str]) -> Mapping[str, Sequence[float]]:
        raise InputError(
            self.url, "a service shows no input embeddings", "leave weat tasks out, or evaluate the model's folder"
        )

    def _write(self, item: Item) -> Text:
        how: dict[str, Any] = {"model": self.model, "max_tokens": item.max_new_tokens, "temperature": 0}
        if item.sampling:
            how |= {"n": item.sampling.num, "temperature": item.sampling.temperature, "top_p": item.sampling.top_p}
            how["seed"] = int(order(self.seed, item.task, item.id)[:8], 16)
        if item.until:
            how["stop"] = list(item.until[:MAX_STOPS])
        if item.chat:
            path, how = "/chat/completions", how | {"messages": [{"role": "user", "content": item.prompt}]}
        else:
            path, how = "/completions", how | {"prompt": item.prompt, **AS_OFFLINE}
        return self._asked("POST", path, how, lambda answered: _text(answered, how.get("n", 1), item))

    def _likelihood(self, asked: tuple[str, str]) -> Likelihood:
        prompt, text = asked[0], "".join(asked)
        how = {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        return self._asked(
            "POST", "/completions", how | AS_OFFLINE, lambda answered: self._read(answered, prompt, text)
        )

    def _read(self, answered: Any, prompt: str, text: str) -> Likelihood:
        told = answered["choices"][0].get("logprobs")
        if not told or not told.get("text_offset"):
            found = "its completions tell no log-likelihoods of the prompt (echo with logprobs)"
            raise InputError(self.url, found, "ask it to write (qa, written_choice), or evaluate the model's folder")
        ends = [*told["text_offset"][1:], len(text) + 1]
        # As the engine counts them: tokens that end behind the prompt; the last one of all is what it wrote itself.
        # The first of all has no probability. One that lacks it elsewhere would make the answer likelier than it is.
        counted = [
            at for at, (start, end) in enumerate(zip(told["text_offset"], ends, strict=True))
            if at and end > len(prompt) and start < len(text)
        ]  # fmt: skip
        if not counted or any(told["token_logprobs"][at] is None for at in counted):
            return Likelihood(float("nan"), 0, 0)
        scored = text[max(told["text_offset"][counted[0]], len(prompt)) :]
        return Likelihood(sum(float(told["token_logprobs"][at]) for at in counted), len(counted), len(scored.encode()))

    def _asked(self, method: str, path: str, body: Any, read: Callable[[Any], A]) -> A:
        """What `read` finds in the answer."""
        answered = self._ask(method, path, body)
        try:
            return read(answered)
        except (LookupError, TypeError, ValueError, AttributeError):
            self._give_up(path, f"answers in another form than OpenAI's API: {str(answered)[:200]}")

    def _ask(self, method: str, path: str, body: Any) -> Any:
        answered: httpx.Response | None = None
        for turn in range(TRIES):
            last = turn == TRIES - 1
            if turn:
                self.sleep(RETRY_S * 4 ** (turn - 1))
            try:
                answered = self.client.request(method, f"{self.url}{path}", json=body)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if last:
                    self._give_up(path, f"does not answer ({type(error).__name__})")
                continue
            if answered.status_code not in AGAIN or last:
                break
        assert answered is not None
        if answered.status_code != httpx.codes.OK:
            self._give_up(path, f"answers with status {answered.status_code}: {answered.text[:200]}")
        try:
            return answered.json()
        except ValueError:
            self._give_up(path, "answers with something other than JSON")

    def _give_up(self, path: str, found: str) -> NoReturn:
        remedy = "see that the model is served there, that the URL ends in /v1, and which key it asks for"
        raise ResourceError(f"{self.url}{path}", found, remedy)


def _text(answered: Any, num: int, item: Item) -> Text:
    """As many texts as were asked for."""
    texts = [choice["message"]["content"] or "" if item.chat else choice["text"] for choice in answered["choices"]]
    if len(texts) != num or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{len(texts)} texts, {num} asked for")
    return Text(tuple(map(item.ended, texts)), int((answered.get("usage") or {}).get("completion_tokens") or 0))


class _Left(Exception):
    """Not asked any more."""


def _at_once(ask: Callable[[Any], A], asked: Sequence[Any]) -> list[A]:
    """After a failure those that wait are not asked any more: each would be tried anew, and the service is down."""
    failed = Event()

    def one(what: Any) -> A:
        if failed.is_set():
            raise _Left
        try:
            return ask(what)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(one, what) for what in asked]
        try:
            wait(futures)
        except BaseException:  # Ctrl-C
            failed.set()
            raise
    errors = (future.exception() for future in futures)
    for error in errors:
        if error is not None and not isinstance(error, _Left):
            raise error
    return [future.result() for future in futures]
