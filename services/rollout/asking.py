"""Asks one revision one item, through the Serve handle of the revision's own application.

Not through the gateway: an answer must belong to a revision, not to a role that moves while the question is on its way; a probe
must never enter users' evidence, metrics or limits; and keys are kept as hashes, so the prober could not show one. What users
meet on the way to the model (admission, failing over) is judged by their own requests.

Imported where a prober runs: the bodies are vLLM's types, whose import takes ten seconds.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from typing import Any

from services.config import ProbesConfig
from services.contract import MODEL_DEPLOYMENT, application_name
from services.rollout.probes import ProbeItem


class NoAnswer(Exception):
    """The revision did not answer: an error, no application, or too late."""


class ServeAsker:
    """Call it with a revision and an item; it returns the answer's text (for `choice`, the chosen one).

    Raises:
        NoAnswer: see the class.
    """

    def __init__(self, engine_of: Callable[[str], str]) -> None:
        """`engine_of` tells the revision whose application answers for one: an adapter's is its base's."""
        self._engine_of = engine_of
        self._handles: dict[str, Any] = {}

    async def __call__(self, revision: str, item: ProbeItem, probes: ProbesConfig) -> str:
        try:
            async with asyncio.timeout(probes.timeout_s):
                if item.choices:
                    return await self._chosen(revision, item, probes.seed)
                return await self._written(revision, item, probes.seed)
        except NoAnswer:
            raise
        except TimeoutError:
            raise NoAnswer(f"no answer within {probes.timeout_s:g} s") from None
        except (
            Exception
        ) as error:  # a dead replica, a missing application, a defect of the model server: all are no answer
            self._handles.pop(revision, None)
            raise NoAnswer(type(error).__name__) from None

    async def _written(self, revision: str, item: ProbeItem, seed: int) -> str:
        fields = {"model": revision, "max_tokens": item.max_tokens, "temperature": 0, "seed": seed, "stream": False}
        if item.prompt is not None:
            answer = await self._ask(revision, "completions", {**fields, "prompt": item.prompt})
            return str(answer["choices"][0].get("text") or "")
        answer = await self._ask(revision, "chat", {**fields, "messages": list(item.messages)})
        return str(answer["choices"][0]["message"].get("content") or "")

    async def _chosen(self, revision: str, item: ProbeItem, seed: int) -> str:
        """The likeliest choice per byte, as evaluation has it. One request after the other: an item is one place at the engine."""
        likelihoods = [await self._likelihood(revision, str(item.prompt), choice, seed) for choice in item.choices]
        if not all(map(math.isfinite, likelihoods)):
            raise NoAnswer("the engine gave no log-probabilities")
        return item.choices[max(range(len(likelihoods)), key=likelihoods.__getitem__)]

    async def _likelihood(self, revision: str, prompt: str, choice: str, seed: int) -> float:
        fields = {"model": revision, "prompt": prompt + choice, "max_tokens": 1, "temperature": 0, "seed": seed}
        answer = await self._ask(revision, "completions", {**fields, "echo": True, "logprobs": 1, "stream": False})
        return likelihood(answer["choices"][0].get("logprobs") or {}, prompt, choice)

    async def _ask(self, revision: str, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        from ray import serve
        from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request
        from ray.llm._internal.serve.core.protocol import RawRequestInfo
        from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

        request_id = f"probe-{uuid.uuid4().hex}"
        if method == "chat":
            body = _sanitize_chat_completion_request(ChatCompletionRequest(**fields, request_id=request_id))
        else:
            body = CompletionRequest(**fields, request_id=request_id)
        if revision not in self._handles:
            application = application_name(self._engine_of(revision))
            handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, application)
            self._handles[revision] = handle.options(stream=True)
        answers = getattr(self._handles[revision], method).remote(body, RawRequestInfo({"x-request-id": request_id}))
        try:
            answer = await anext(answers)
        except asyncio.CancelledError:
            answers.cancel()  # free the engine's place
            raise
        if hasattr(answer, "error"):
            raise NoAnswer(f"error {answer.error.code}")
        found: dict[str, Any] = answer.model_dump(mode="json")
        return found


def has_replica(revision: str) -> bool:
    """Whether a replica of that revision's model server runs now. Asks Serve's controller: not for an event loop."""
    from ray import serve

    application = serve.status().applications.get(application_name(revision))
    deployment = application.deployments.get(MODEL_DEPLOYMENT) if application else None
    return deployment is not None and deployment.replica_states.get("RUNNING", 0) > 0


def likelihood(logprobs: dict[str, Any], prompt: str, choice: str) -> float:
    """Log-probability per byte of the choice's tokens in an echoed completion; nan where the answer has none.

    A token that begins in the prompt's last character and reaches into the choice counts: tokenizers join them.
    """
    offsets, values = logprobs.get("text_offset") or [], logprobs.get("token_logprobs") or []
    end = len(prompt) + len(choice)
    ends = [*offsets[1:], end]
    counted = [
        value
        for start, stop, value in zip(offsets, ends, values, strict=False)
        if start < end and stop > len(prompt) and value is not None
    ]
    return sum(counted) / len(choice.encode()) if counted else math.nan
