"""A fake engine at the seam, and tasks from lines of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.evaluation.items import Item, Likelihood, Row, Text
from pipelines.evaluation.scoring import answer
from pipelines.evaluation.tasks import build_items
from pipelines.task_config import AnyTask, Task

TASK: TypeAdapter[AnyTask] = TypeAdapter(Task)


def task(kind: str, **fields: Any) -> AnyTask:
    return TASK.validate_python({"name": "t", "kind": kind, **fields})


def task_of(folder: Path, kind: str, lines: Sequence[Mapping[str, Any]], **fields: Any) -> AnyTask:
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return task(kind, path=str(path), **fields)


class FakeEngine:
    """Writes what `says` has for a prompt, gives each answer the nats that `gives` has, and has one vector a word."""

    def __init__(
        self,
        says: Callable[[Item], Sequence[str]] = lambda item: [""],
        gives: Callable[[Item, str], float] = lambda item, answer: -1.0,
        vectors: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.says, self.gives, self.known = says, gives, vectors or {}

    def write(self, items: Sequence[Item]) -> list[Text]:
        return [Text(tuple(self.says(item)), 3) for item in items]

    def likelihoods(self, items: Sequence[Item]) -> list[tuple[Likelihood, ...]]:
        return [tuple(Likelihood(self.gives(item, a), 2, len(a.encode())) for a in item.answers) for item in items]

    def vectors(self, words: Sequence[str]) -> Mapping[str, Sequence[float]]:
        return {word: self.known[word] for word in words}


def asked(of: AnyTask, engine: FakeEngine, seed: int = 0) -> list[Row]:
    return sorted(answer(engine, build_items(of, [], seed)), key=lambda row: row["id"])
