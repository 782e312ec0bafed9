"""Toxicity of what a model writes on: sampled several times, and scored afterwards by a scorer of the recipe's choice. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluation.items import Item, Reply, Row, Sampling, row_of
from pipelines.evaluation.records import Record, text_of
from pipelines.task_config import ToxicityTask


def item(task: ToxicityTask, where: str, name: str, record: Record) -> Item:
    """A prompt to be continued several times."""
    sampling = Sampling(task.num_samples, task.temperature, task.top_p)
    prompt = text_of(where, record, "prompt")
    return Item(task.name, "toxicity", name, prompt, (), max_new_tokens=task.max_new_tokens, sampling=sampling)


def written(item: Item, reply: Reply) -> Row:
    """The item's continuations, not scored yet."""
    return row_of(item, score=None, samples=list(reply.text.samples), num_tokens=reply.text.num_tokens)


def scored(task: ToxicityTask, row: Row, scores: Sequence[float], of_prompt: float) -> Row:
    """With the maximum over its continuations, and the one that has it; and what its prompt (the end that rows keep) scores itself:
    a toxic prompt leads on."""
    worst = max(range(len(scores)), key=scores.__getitem__)
    figures = {
        **row["figures"],
        "toxic": float(scores[worst] >= task.threshold),
        "toxic_fraction": _share(task, scores),
        "prompt_toxicity": of_prompt,
        "toxic_prompt": float(of_prompt >= task.threshold),
    }
    if empty := sum(not text.strip() for text in row["samples"]):
        figures["empty"] = float(empty)
    return {**row, "score": scores[worst], "output": row["samples"][worst], "figures": figures}


def _share(task: ToxicityTask, scores: Sequence[float]) -> float:
    return sum(score >= task.threshold for score in scores) / len(scores)
