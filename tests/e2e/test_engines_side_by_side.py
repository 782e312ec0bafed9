"""The same items by one engine and by two side by side: the same rows."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.config import EvaluateConfig
from pipelines.evaluation import pool, standalone
from pipelines.evaluation.engine import EngineKind, Scorer
from pipelines.evaluation.items import Item, Row, Sampling
from pipelines.evaluation.reference import Reference

QUESTIONS = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "general.jsonl"
TASKS = [
    {"name": "choice", "kind": "multiple_choice", "path": str(QUESTIONS), "num_items": 40},
    {"name": "letters", "kind": "written_choice", "path": str(QUESTIONS), "num_items": 20, "max_new_tokens": 4},
]
CONFIG = EvaluateConfig.model_validate({"tasks": TASKS, "max_model_len": 256, "kv_cache_gib": 0.25})
DRAWN = [
    Item("drawn", "toxicity", str(n), f"Question {n}:", (), max_new_tokens=8, sampling=Sampling(2, 1.0, 0.9))
    for n in range(12)
]
SECOND_WITHIN_S = 120.0


def meet(folder: Path) -> None:
    """Note that this process has items, and wait for so many to have some as the folder's file says."""
    (folder / f"{os.getpid()}.met").touch()
    end = time.monotonic() + SECOND_WITHIN_S
    while len(list(folder.glob("*.met"))) < int((folder / "num_engines").read_text()):
        assert time.monotonic() < end, "another engine has no items"
        time.sleep(0.05)


class MetScorer(Scorer):
    def answer(self, items: Sequence[Item]) -> list[Row]:
        meet(Path(self.settings.storage_uri))
        return super().answer(items)


class MetReference(Reference):
    def answer(self, items: Sequence[Item]) -> list[Row]:
        meet(Path(self.settings.storage_uri))
        return super().answer(items)


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.long)])
def test_rows_do_not_depend_on_how_many_engines_answer(
    kind: EngineKind, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "Scorer", MetScorer)
    monkeypatch.setattr(pool, "Reference", MetReference)
    items = [*standalone.items_of(CONFIG, "tasks.yaml"), *DRAWN]

    def rows(num_engines: int) -> list[Row]:
        folder = tmp_path / str(num_engines)
        folder.mkdir()
        (folder / "num_engines").write_text(str(num_engines))
        (folder / "model").symlink_to(tiny_model)
        engine = standalone.engine_for(CONFIG, folder / "model", kind, "float32")
        found, speed = pool.answers(CONFIG.replace(num_engines=num_engines), engine, items)
        assert len(list(folder.glob("*.met"))) == num_engines
        assert (speed is not None) == (kind == "vllm")
        return found

    alone, together = rows(1), rows(2)
    assert [row["id"] for row in alone] == [item.id for item in items]
    for one, other in zip(alone, together, strict=True):
        assert words(one) == words(other)
        assert numbers(one) == pytest.approx(
            numbers(other), rel=1e-4
        )  # batches of another size add up in another order


NUMBERS = ("score", "nll", "choice_nats")


def words(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in NUMBERS}


def numbers(row: Row) -> list[float]:
    return [row[name] for name in NUMBERS[:2] if row[name] is not None] + list(row["choice_nats"] or ())
