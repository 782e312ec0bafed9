"""A model server on real vLLM that spoils its answers on command. Imported only where one is deployed: it pulls in vLLM."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.serving.model_server import RevisionServer

FAULT = "fault"
"""File in the storage that names the fault of the moment: error, empty, truncated, slow."""
LONG_PROMPT, SLOW_S = 200, 2.0
"""Characters from which on a prompt is long, and how much longer it takes."""
ERROR = 'data: {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}\n\n'
DONE = "data: [DONE]\n\n"


class FaultyServer(RevisionServer):
    """Answers as vLLM does, until the file says otherwise."""

    async def __init__(self, llm_config: Any, storage_uri: str, **bound: Any) -> None:
        await super().__init__(llm_config, storage_uri, **bound)
        self._fault_file = Path(storage_uri) / FAULT

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        fault = self._fault_file.read_text() if self._fault_file.exists() else ""
        if fault == "slow" and len(request.messages[-1]["content"]) >= LONG_PROMPT:
            await asyncio.sleep(SLOW_S)
        return _spoilt(await super().chat(request, raw_request_info), fault)


async def _spoilt(chunks: AsyncIterator[Any], fault: str) -> AsyncIterator[Any]:
    async for chunk in chunks:
        if hasattr(chunk, "choices"):
            yield _whole(chunk, fault)
            continue
        text = "".join(chunk) if isinstance(chunk, list) else chunk
        for event in text.split("\n\n")[:-1]:
            kept = _event(json.loads(event.removeprefix("data: ")) if "[DONE]" not in event else None, fault)
            yield [kept if kept is not None else f"{event}\n\n"]
            if kept in (ERROR, DONE):
                return


def _whole(answer: Any, fault: str) -> Any:
    """An answer in one piece can only be empty."""
    if fault == "empty":
        answer.choices[0].message.content = ""
    return answer


def _event(event: dict[str, Any] | None, fault: str) -> str | None:
    """In place of an event with a piece of the answer, or None where it stays; ERROR and DONE are the last."""
    choices = (event or {}).get("choices") or [{}]
    delta, reason = choices[0].get("delta", {}), choices[0].get("finish_reason")
    if fault == "empty" and delta.get("content"):
        delta["content"] = ""
        return f"data: {json.dumps(event)}\n\n"
    if fault == "error" and reason:
        return ERROR
    if fault == "truncated" and reason:
        return DONE
    return None
