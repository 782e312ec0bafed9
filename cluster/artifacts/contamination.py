"""How much of the evaluation items stands in what a model learns from, and the gate's findings on it."""

from __future__ import annotations

from typing import Literal

from cluster.artifacts.manifest import Manifest
from cluster.config import StrictModel

OverlapRule = Literal["most_8_grams", "any_13_gram"]
"""By which an item counts as contaminated. `most_8_grams`: 70 % of the runs of 8 words of its prompt, or of its answer, stand in
training documents (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, section 8). `any_13_gram`: one run of 13 words does, or the
whole of a text of 8 to 12 (Brown et al. 2020, GPT-3, arXiv 2005.14165, appendix C)."""


class TaskContamination(StrictModel):
    """Of one task. Items whose prompt and answer together have fewer than 8 words are not measured."""

    task: str
    num_items: int
    num_measured: int
    num_by_rule: dict[OverlapRule, int]
    """Contaminated items."""


class Contamination(Manifest):
    """Of a recipe's tasks by the documents that the model learns from; `items.parquet` has a row for each item."""

    kind: Literal["contamination"] = "contamination"
    num_documents: int = 0
    """That items were looked for in."""
    tasks: tuple[TaskContamination, ...] = ()

    @property
    def summary(self) -> str:
        of = (f"{one.task} {one.num_by_rule['most_8_grams']} of {one.num_items}" for one in self.tasks)
        found = ", ".join(of) or "no task to look for"
        return f"items that stand in the {self.num_documents:,} documents to learn from: {found}"
