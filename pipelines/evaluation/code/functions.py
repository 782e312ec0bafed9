"""Functions to complete: their items, and the program that is run (HumanEval, Chen et al. 2021, arXiv 2107.03374). Pure."""

from __future__ import annotations

import re

from pipelines.evaluation.items import CodeItem, Item, Reply, Row, row_of
from pipelines.evaluation.records import Record, text_of
from pipelines.task_config import CodeTask

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a function that is written on has ended (Chen et al. 2021, section 2.1)."""
FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", re.DOTALL)
ASKED = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}\n```"


def item(task: CodeTask, where: str, name: str, record: Record) -> CodeItem:
    """From a line of HumanEval as it is published, or with its fields."""
    prompt, test, function = (text_of(where, record, field) for field in ("prompt", "test", "entry_point"))
    name = str(record.get("task_id", name)) if "id" not in record else name
    return CodeItem(
        task.name, "code", name, ASKED.format(prompt.rstrip()) if task.chat else prompt, (),
        max_new_tokens=task.max_new_tokens, chat=task.chat, head=prompt, test=test, function=function,
    )  # fmt: skip


def written(item: Item, reply: Reply) -> Row:
    """What was written, not run yet."""
    (text,) = reply.text.samples
    figures = {} if text.strip() else {"empty": 1.0}
    return row_of(item, score=None, num_tokens=reply.text.num_tokens, output=text, figures=figures)


def program(item: CodeItem, text: str) -> str:
    """The function as it was written, and its test."""
    return f"{_function(item, text)}\n{item.test}\ncheck({item.function})\n"


def _function(item: CodeItem, text: str) -> str:
    fenced = FENCED.search(text)
    body = fenced[1] if fenced else text
    defined = re.compile(rf"^(?:async )?def {re.escape(item.function)}\b", re.MULTILINE)
    if defined.search(body):  # whole, behind what its head imports and defines
        return item.head[: found.start() if (found := defined.search(item.head)) else None] + body
    ends = [at for stop in STOPS if (at := body.find(stop)) >= 0]
    return item.head + body[: min(ends, default=len(body))]
