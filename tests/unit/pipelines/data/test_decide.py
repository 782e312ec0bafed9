from __future__ import annotations

import random
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import DataConfig, DedupConfig, SourceConfig
from pipelines.data import duplicates
from pipelines.data.decide import EXCLUDED, HELDOUT, TRAIN, choose_heldout, decide, without_duplicates
from pipelines.data.dedup import band_keys, fingerprints
from pipelines.data.duplicates import joined, link, tasks
from tests.unit.pipelines.data.strategies import column


def config(heldout_fraction: float = 0.0, **dedup: bool) -> DataConfig:
    sources = (SourceConfig(path="docs"),)
    return DataConfig(sources=sources, heldout_fraction=heldout_fraction, dedup=DedupConfig(**dedup))


def table(texts: list[str], reasons: dict[int, str] | None = None) -> pa.Table:
    reasons = reasons or {}
    return pa.table(
        {
            "id": pa.array([f"d{i}" for i in range(len(texts))], pa.string()),
            "reason": pa.array([reasons.get(i, "") for i in range(len(texts))], pa.string()),
            "detail": pa.array(["found" if i in reasons else "" for i in range(len(texts))], pa.string()),
            "fingerprint": pa.array(fingerprints(column(texts)), pa.binary()),
            "bands": pa.array(band_keys(column(texts), DedupConfig()), pa.binary()),
        }
    )


def decided(documents: pa.Table, settings: DataConfig, num_tables: int = 2) -> list[tuple[str, str, str]]:
    """Split, reason and detail of each, as in a cleaning whose documents lie in several tables."""
    bounds = [len(documents) * i // num_tables for i in range(num_tables + 1)]
    tables = [documents.slice(start, end - start) for start, end in pairwise(bounds)]
    todo = tasks(settings.dedup, [len(table) for table in tables], "unused", ())
    judged = without_duplicates(documents, joined([link(task, *tables) for task in todo]))
    found = decide(documents, settings, judged)
    return [(row["split"], row["reason"], row["detail"]) for row in found.to_pylist()]


TEXT = " ".join(f"word{i}" for i in range(200))


def test_first_of_exact_and_near_duplicates_is_kept() -> None:
    decisions = decided(table([TEXT, "other", TEXT, TEXT.upper()]), config())
    assert decisions == [
        (TRAIN, "", ""),
        (TRAIN, "", ""),
        (EXCLUDED, "exact_duplicate", "of d0"),
        (EXCLUDED, "near_duplicate", "of d0"),
    ]


def test_several_tasks_say_the_same_as_one_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    words = [f"word{i}" for i in range(120)]
    texts = [
        " ".join(word if rng.random() > share else "other" for word in words) for share in (0, 0.01, 0.02, 0.3) * 5
    ]
    documents = table([*texts, "...", "...", texts[3], ""])
    at_once = decided(documents, config())
    monkeypatch.setattr(duplicates, "MANY", 5)
    assert [task.bands for task in tasks(DedupConfig(), [24], "unused", ())] == [
        (0, 5, 10), (1, 6, 11), (2, 7, 12), (3, 8, 13), (4, 9)
    ]  # fmt: skip
    assert len(tasks(DedupConfig(), [24] * 9, "unused", ())) == 14
    assert decided(documents, config(), 5) == at_once
    assert {reason for _, reason, _ in at_once} == {"", "exact_duplicate", "near_duplicate"}


def test_an_excluded_document_makes_no_duplicates() -> None:
    decisions = decided(table([TEXT, TEXT], {0: "language"}), config())
    assert decisions == [(EXCLUDED, "language", "found"), (TRAIN, "", "")]


@pytest.mark.parametrize(
    ("dedup", "num_kept"), [({"near": False}, 2), ({"exact": False}, 1), ({"exact": False, "near": False}, 3)]
)
def test_each_kind_can_be_switched_off(dedup: dict[str, bool], num_kept: int) -> None:
    decisions = decided(table([TEXT, TEXT, TEXT.upper()]), config(**dedup))
    assert sum(split == TRAIN for split, *_ in decisions) == num_kept


def test_duplicates_are_removed_before_the_split() -> None:
    texts = [f"text number {i}" for i in range(50)] * 2
    decisions = decided(table(texts), config(heldout_fraction=0.5, near=False))
    kept = [split for split, *_ in decisions[:50]]
    assert {TRAIN, HELDOUT} == set(kept)
    assert all(reason == "exact_duplicate" for _, reason, _ in decisions[50:])


def heldout(keys: list[bytes], fraction: float) -> list[bool]:
    chosen: list[bool] = choose_heldout(pa.chunked_array([pa.array(keys, pa.binary())]), fraction).tolist()
    return chosen


def test_heldout_share_is_about_the_fraction() -> None:
    keys = fingerprints(column([f"text {i}" for i in range(5_000)]))
    assert heldout(keys, 0.1).count(True) / 5_000 == pytest.approx(0.1, abs=0.02)  # 4.7 standard errors


@settings(deadline=None)
@given(st.integers(0, 40), st.floats(0, 0.99), st.integers(0, 99))
def test_heldout_does_not_depend_on_order(num: int, fraction: float, seed: int) -> None:
    keys = fingerprints(column([f"{seed} {i}" for i in range(num)]))
    chosen = dict(zip(keys, heldout(keys, fraction), strict=True))
    shuffled = random.Random(seed).sample(keys, num)
    assert dict(zip(shuffled, heldout(shuffled, fraction), strict=True)) == chosen
    if num > 1:
        assert any(chosen.values()) == (fraction > 0)
        assert not all(chosen.values())


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "language"])), max_size=20))
def test_every_document_gets_one_decision(documents: list[tuple[str, str]]) -> None:
    reasons = {i: reason for i, (_, reason) in enumerate(documents) if reason}
    decisions = decided(table([f"{letter} " * 60 for letter, _ in documents], reasons), config(heldout_fraction=0.3))
    assert len(decisions) == len(documents)
    assert all((split == EXCLUDED) == bool(reason) for split, reason, _ in decisions)
    alive = {letter for letter, reason in documents if not reason}
    assert sum(split != EXCLUDED for split, *_ in decisions) == len(alive)
