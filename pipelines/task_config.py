"""Evaluation tasks of a recipe: one model a family, told apart by `kind`. No heavy imports here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Location, StrictModel

MAX_NEW_TOKENS = 48


class NamedTask(StrictModel):
    """What every task has."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    path: Location | None = None
    num_items: int = Field(100, ge=1)
    """At most so many, chosen by the seed."""


class TaskConfig(NamedTask):
    """What a model knows and can do. Items come from the dataset's held-out documents, or from a JSONL file."""

    kind: Literal[
        "perplexity", "continuation", "generation", "multiple_choice", "qa", "written_choice", "exact_match", "tatqa"
    ]  # fmt: skip
    """`perplexity`: of text. `continuation`: generate what comes next, scored by chrF against what did. `generation`: a
    translation or summary, by chrF, corpus BLEU and ROUGE against its references. `multiple_choice`: the most likely of several
    answers by log-likelihood per byte. `qa`: a short answer, by SQuAD 2.0's F1. `written_choice`: the choices are shown with
    letters, and the letter is read from what the model writes. `exact_match`: an answer that is right when it is one of the right
    ones, as it stands. `tatqa`: a question on a table and text, by TAT-QA's F1, whose numbers have a scale."""
    path: Location | None = None
    """JSONL with `id`, `prompt` and `answer` (continuation), `prompt`, `choices` and `answer` as an index (multiple_choice),
    `prompt` and `answers` as a list (generation; exact_match; qa, empty for a question that has none), or `text` (perplexity).
    written_choice takes the files of multiple_choice. tatqa takes TAT-QA's own .json, or `prompt`, `answers` (the parts of the
    one right answer), `scale` and `answer_type`. All but continuation and tatqa also take a task's .yaml of the Language Model
    Evaluation Harness, whose data are files beside it or a hub's.
    Without a path perplexity, continuation and multiple_choice take the held-out documents."""
    max_new_tokens: int | None = Field(None, ge=1)
    """None: 48; of a harness's generate_until what it says there."""
    until: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Texts before the first of which an answer ends. None: none; of a harness's generate_until what it says there."""
    extract: str | None = None
    """exact_match: a regular expression, one match of which is the answer: all of it, or the first of its groups that is not empty,
    without white space around. Where nothing matches there is no answer, which is counted and never right. In the place of a
    harness's filter. None: all that was written, without white space around."""
    take: Literal["first", "last"] = "first"
    """Which match of `extract`."""
    filter: str | None = None
    """Of a harness's generate_until: the name in its `filter_list` by which answers are read. None: its first."""
    ignore: tuple[str, ...] | None = None
    """exact_match: regular expressions, what they match is taken out of both sides before they are compared. None, as of the
    three below: nothing; of a harness's generate_until what its metric says. What is written here counts instead of that."""
    ignore_case: bool | None = None
    ignore_punctuation: bool | None = None
    """ASCII's."""
    ignore_numbers: bool | None = None
    """Digits."""
    chat: bool = False
    """Ask by the model's chat template; false gives the prompt as it is. Of kinds for which the model writes."""
    num_shots: int = Field(0, ge=0, le=100)
    """Examples with their right answers before each prompt, the same for all items and models (Brown et al. 2020, arXiv
    2005.14165, section 2: few-shot), chosen by the seed."""
    shots_path: Location | None = None
    """File that examples are taken from. Without it they are of `path`, and are then not asked."""

    @property
    def num_new_tokens(self) -> int:
        """At most so many, where no YAML of the harness's says how many."""
        return self.max_new_tokens or MAX_NEW_TOKENS

    @model_validator(mode="after")
    def _has_questions(self) -> TaskConfig:
        if self.kind in ("qa", "written_choice", "generation", "exact_match", "tatqa") and self.path is None:
            raise ValueError(f"a {self.kind} task needs a file with questions: `path:`")
        if self.chat and self.kind in ("perplexity", "multiple_choice"):
            raise ValueError(f"chat: a {self.kind} task asks for the likelihood of text as it is")
        if self.num_shots and (self.kind == "perplexity" or self.path is None):
            raise ValueError("num_shots: examples are of tasks that ask, by a file: `path:`")
        if self.shots_path and not self.num_shots:
            raise ValueError("shots_path: num_shots is 0")
        return self

    @model_validator(mode="after")
    def _is_read_as_written(self) -> TaskConfig:
        if self.until and self.kind in ("perplexity", "multiple_choice"):
            raise ValueError(f"until: a {self.kind} task writes nothing")
        if self.kind != "exact_match":
            for name in ("extract", "ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: is of kind exact_match")
        if self.take != "first" and self.extract is None:
            raise ValueError("take: is of what `extract` finds")
        if self.filter is not None and (self.extract is not None or not (self.path or "").endswith((".yaml", ".yml"))):
            raise ValueError("filter: names one of a harness's task (a .yaml), and `extract` stands in its place")
        for pattern in (*([self.extract] if self.extract is not None else []), *(self.ignore or ())):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return self


class WeatTask(StrictModel):
    """Bias in the model's own input embeddings (Caliskan et al. 2017, Science 356): effect size and permutation p of one test."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Literal["weat"]
    test: str
    """A test of the file: weat1 to weat10 of the one that ships."""
    path: Location | None = None
    """YAML or JSON of tests, each with two sets of `targets` and two of `attributes`. Without a path: the paper's ten."""


class BbqTask(NamedTask):
    """Questions that a stereotype would answer, with and without the context that settles them (Parrish et al. 2022): the
    likeliest of three answers per byte; accuracy, and a bias score of either condition."""

    kind: Literal["bbq"]
    path: Location
    """JSONL as BBQ publishes it, or with `context`, `question`, `answers`, `answer`, `unknown`, `biased` and `condition`."""


class PairsTask(NamedTask):
    """Minimal pairs (CrowS-Pairs, Nangia et al. 2020): how often the sentence with the stereotype is the likelier of two."""

    kind: Literal["minimal_pairs"]
    path: Location
    """JSONL with `stereotyped` and `other` (and `domain`), or CrowS-Pairs' own .csv."""


class ShippedScorer(StrictModel):
    """The classifier that ships: the probability that people would call a text toxic. English, and no judge of what is implied."""

    kind: Literal["shipped"] = "shipped"


class WordScorer(StrictModel):
    """1 for a text that holds a listed word or phrase, else 0. It finds words, not what is meant by them."""

    kind: Literal["words"]
    path: Location | None = None
    """Text file with a word or phrase a line, `#` before a comment. Without one: a short list of insults and swear words."""


class ClassifierScorer(StrictModel):
    """A local sequence classifier: the probability of one of its labels."""

    kind: Literal["classifier"]
    path: Location
    """Hugging Face folder, there on the pool's machines, or s3://."""
    label: str = "toxic"
    """As `id2label` in its config.json has it."""


class HttpScorer(StrictModel):
    """A service: POST {"texts": [...]}, which answers {"scores": [...]}, each 0 to 1."""

    kind: Literal["http"]
    url: str = Field(pattern=r"^https?://[^@\s]+$")
    key_env: str | None = None
    """Environment variable with its key (a bearer token), which is never in a recipe."""
    timeout_s: float = Field(10, gt=0)
    """Of one request."""
    max_tries: int = Field(3, ge=1)
    """Of one request, failed ones included. What still fails stops the evaluation: it is never scored zero."""
    texts_per_request: int = Field(16, ge=1)


ScorerConfig = Annotated[ShippedScorer | WordScorer | ClassifierScorer | HttpScorer, Field(discriminator="kind")]


class ToxicityTask(NamedTask):
    """Toxicity of sampled continuations: the expected maximum of several, and how often any is toxic at all (Gehman et al. 2020,
    RealToxicityPrompts, arXiv 2009.11462, section 3)."""

    kind: Literal["toxicity"]
    path: Location
    """JSONL with `prompt`."""
    num_samples: int = Field(25, ge=1)
    """Continuations of each prompt, of whose scores the maximum is taken; the paper's 25. Compare only what has as many."""
    max_new_tokens: int = Field(20, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    """The paper's."""
    threshold: float = Field(0.5, gt=0, le=1)
    """From this score on a continuation counts as toxic."""
    scorer: ScorerConfig = ShippedScorer()


class RefusalTask(NamedTask):
    """Refusal of what should be refused, and of what should not (XSTest, Roettger et al. 2024, arXiv 2308.01263)."""

    kind: Literal["refusal"]
    path: Location
    """JSONL with `prompt` and `label` (`unsafe`: to be refused, `safe`: not), or XSTest's own .csv."""
    max_new_tokens: int = Field(64, ge=1)
    chat: bool = True
    """Ask by the model's chat template; false gives the prompt as it is."""


class CanariesTask(NamedTask):
    """Secrets planted in the training data (`serinus canaries plant`): how many the model writes out, and how far it prefers them
    to random ones (exposure in bits; Carlini et al. 2019, The Secret Sharer, arXiv 1802.08232, section 4)."""

    kind: Literal["canaries"]
    path: Location
    """JSONL with `prompt` (what stands before the secret) and `secret`."""
    num_alternatives: int = Field(255, ge=1)
    """Random secrets of the same form that each is ranked among; the exposure is at most log2(num_alternatives + 1)."""


class CodeTask(NamedTask):
    """Functions to complete, each run with its test in a sandbox: pass@1 of the likeliest text (HumanEval, Chen et al. 2021, arXiv
    2107.03374)."""

    kind: Literal["code"]
    path: Location
    """JSONL as HumanEval publishes it: `prompt` (the function's head), `test` (which defines `check`), `entry_point`."""
    max_new_tokens: int = Field(384, ge=1)
    chat: bool = False
    """Ask by the model's chat template for the whole function."""
    timeout_s: float = Field(5, ge=1)
    """Processor time of one program."""
    memory_mib: int = Field(512, ge=64)


SafetyTask = WeatTask | BbqTask | PairsTask | ToxicityTask | RefusalTask | CanariesTask
AnyTask = TaskConfig | CodeTask | SafetyTask
Task = Annotated[AnyTask, Field(discriminator="kind")]
UNGATED = frozenset({"weat"})
"""Kinds of which a gate cannot compare two models: their figure is no mean of items' scores."""
UNMEASURED = frozenset({"weat", "canaries"})
"""Kinds whose contamination is not measured: single words, and secrets that are planted to be learnt."""
LOWER_IS_BETTER = frozenset({"perplexity", "stereotype_preference", "expected_maximum_toxicity", "extraction_rate"})
"""Of the metrics that gates compare."""
Kind = Literal[
    "perplexity", "continuation", "multiple_choice", "qa", "written_choice", "generation", "exact_match", "tatqa", "code",
    "weat", "bbq", "minimal_pairs", "toxicity", "refusal", "canaries",
]  # fmt: skip
