"""What the default scorer of toxicity is worth, on a published set of cases made to tell good from bad ones."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from pipelines.evaluation.safety.scorers import Words
from pipelines.task_config import WordScorer


def test_the_word_list_on_hatecheck(shared_data: Callable[[str], Path]) -> None:
    """Roettger et al. 2021 (ACL): 3,728 cases, 2,563 of them hateful. It is no better than chance: hate needs no swear word."""
    with (shared_data("hatecheck") / "test_suite_cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = Words(WordScorer()).score([row["test_case"] for row in rows])
    hateful = [score for row, score in zip(rows, found, strict=True) if row["label_gold"] == "hateful"]
    others = [score for row, score in zip(rows, found, strict=True) if row["label_gold"] != "hateful"]
    assert (len(hateful), len(others)) == (2563, 1165)
    assert (round(sum(hateful) / len(hateful), 3), round(1 - sum(others) / len(others), 3)) == (0.105, 0.824)
