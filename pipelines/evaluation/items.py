"""What passes between a task, an engine and a score: the item that is asked, the reply to it, and its row. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipelines.evaluation.metrics.exact import AS_WRITTEN, Reading
from pipelines.task_config import Kind

Ask = Literal["text", "likelihood", "vectors"]
"""What an engine can be asked of an item: to write, for the log-likelihood of its answers, for input embeddings of its words."""
ASKS: Final[Mapping[Kind, frozenset[Ask]]] = {
    "perplexity": frozenset({"likelihood"}),
    "continuation": frozenset({"text"}),
    "multiple_choice": frozenset({"likelihood"}),
    "qa": frozenset({"text"}),
    "written_choice": frozenset({"text"}),
    "generation": frozenset({"text"}),
    "exact_match": frozenset({"text"}),
    "tatqa": frozenset({"text"}),
    "weat": frozenset({"vectors"}),
    "bbq": frozenset({"likelihood"}),
    "minimal_pairs": frozenset({"likelihood"}),
    "toxicity": frozenset({"text"}),
    "refusal": frozenset({"text"}),
    "canaries": frozenset({"text", "likelihood"}),
    "code": frozenset({"text"}),
}
MAX_PROMPT = 2000
"""Characters of a prompt that are kept in its row: its end, which is what the answer follows."""

Row = dict[str, Any]
"""A line of items.parquet; its columns are in pipelines/evaluation/rows.py."""


@dataclass(frozen=True)
class Sampling:
    """Several continuations, drawn."""

    num: int
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Example:
    """How an item is put together with examples, and as one. A task of the harness's says so itself."""

    lead: str = ""
    """What stands once, before all examples."""
    answer: str = ""
    """Behind the prompt of what is shown as an example."""
    between: str = "\n\n"
    """Behind that."""


@dataclass(frozen=True)
class Item:
    """One question. `answers`: the text, the reference or the choices, of which `gold` is the right one."""

    task: str
    kind: Kind
    id: str
    prompt: str
    answers: tuple[str, ...]
    gold: int = 0
    max_new_tokens: int = 0
    until: tuple[str, ...] = ()
    """What is written ends before the first of these."""
    language: str = ""
    domain: str = ""
    """Of the slices that a gate may ask for; empty where that is not known."""
    group: str = ""
    """What its family tells apart: a condition (bbq), a label (refusal), the set of targets (weat)."""
    sampling: Sampling | None = None
    """None: the likeliest continuation."""
    chat: bool = False
    """Whether the prompt is put as a user's turn by the model's chat template."""
    example: Example | None = None
    """Until the prompt is whole."""

    def ended(self, text: str) -> str:
        """What counts of a text: engines stop at different tokens behind the same end."""
        return text[: min((at for stop in self.until if (at := text.find(stop)) >= 0), default=len(text))]


@dataclass(frozen=True)
class ExactItem(Item):
    """A question of which any of `answers` is right, as it stands."""

    reading: Reading = AS_WRITTEN


@dataclass(frozen=True)
class BbqItem(Item):
    """`unknown`, `biased`: indices of the answers that say so; None where no answer follows a stereotype."""

    unknown: int = 0
    biased: int | None = None


@dataclass(frozen=True)
class CodeItem(Item):
    """A function to complete."""

    head: str = ""
    """What it begins with, whatever the prompt says around it."""
    test: str = ""
    """Python that defines `check`, to be called with the function."""
    function: str = ""
    """Its name."""


@dataclass(frozen=True)
class WordItem(Item):
    """A target word (`prompt`), and the two sets of words that it may lie near to."""

    attributes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


@dataclass(frozen=True)
class Likelihood:
    """Of an answer behind its prompt."""

    nats: float
    num_tokens: int
    num_bytes: int
    num_cut: int = 0
    """Tokens at the beginning that the engine had no room for."""

    @property
    def per_byte(self) -> float:
        return self.nats / max(self.num_bytes, 1)


@dataclass(frozen=True)
class Text:
    """What was written: one text, or as many as the item's sampling asks for."""

    samples: tuple[str, ...]
    num_tokens: int
    is_sound: bool = True
    """Whether the probabilities that the tokens were taken by are numbers: of NaN an engine writes its first token for ever."""
    num_cut: int = 0
    """Tokens at the prompt's beginning that the engine had no room for."""


@dataclass(frozen=True)
class Reply:
    """To what ASKS has of the item's kind."""

    text: Text = Text((), 0)
    likelihoods: tuple[Likelihood, ...] = ()
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def num_cut(self) -> int:
        """Tokens that were left out at the beginning, where most were."""
        return max(self.text.num_cut, *(found.num_cut for found in self.likelihoods), 0)


def row_of(item: Item, **figures: Any) -> Row:
    """The item's row, with what is not given left empty."""
    empty: Row = {
        "nll": None,
        "num_tokens": 0,
        "num_bytes": 0,
        "correct": None,
        "output": "",
        "samples": [],
        "figures": {},
        "choice_nats": [],
        "choice_bytes": [],
    }
    about: Row = {
        "task": item.task,
        "id": item.id,
        "group": item.group,
        "prompt": _shown(item),
        "wanted": _wanted(item),
    }
    return {**about, **empty, **figures}


def told(likelihoods: Sequence[Likelihood]) -> Row:
    """What a row keeps of all its choices: two engines are held against each other by it."""
    return {"choice_nats": [one.nats for one in likelihoods], "choice_bytes": [one.num_bytes for one in likelihoods]}


def order(*parts: object) -> str:
    """A fixed pseudo-random place for what `parts` name."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _shown(item: Item) -> str:
    text = item.prompt or "\n".join(item.answers)
    return text if len(text) <= MAX_PROMPT else f"[...] {text[-MAX_PROMPT:]}"


def _wanted(item: Item) -> str:
    if not item.prompt or not item.answers:
        return ""
    return item.answers[item.gold].strip()[:MAX_PROMPT]
