"""What each rule did to a few documents, before and after: the rules are applied to them once more.

Personal data that the recipe protects is masked on both sides. A document in which a value is seen on one side of a rule and
not, or otherwise, on another (the rule uncovers, joins or cuts it) is no sample at all: masks cover only what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.artifacts import Dataset
from cluster.errors import UserError
from pipelines.config import DataConfig, RuleConfig
from pipelines.config.data import ProtectedKind
from pipelines.data.functions import FunctionFailed, recorded
from pipelines.data.protect import find, protect_column
from pipelines.data.repair import repair_column
from pipelines.data.report.excerpt import excerpt
from pipelines.data.report.figures import Change
from pipelines.data.report.rows import drawn
from pipelines.data.report.shards import MAX_CHARACTERS
from pipelines.data.rules import VERSION, Rule, compile_rules

if TYPE_CHECKING:
    import pyarrow as pa

NUM_SAMPLES = 3
NUM_CANDIDATES = 5
"""Drawn for each rule from the kept and from the excluded: some cannot be read again, or show values."""
NO_SAMPLE = ("personal_data", "forgotten")


class NoRules(Exception):
    """Why the rules cannot be applied once more. Never leaves the report."""


def rules_of(dataset: Dataset, config: DataConfig | None) -> tuple[Rule, ...]:
    """The rules that the dataset was made by.

    Raises:
        NoRules: this serinus has others under the same names, or the file of a function is not at hand.
    """
    if dataset.config.get("rules_version") != VERSION:
        raise NoRules("another version of serinus, with other rules, made this dataset")
    theirs = dataset.config.get("rules", [])
    try:
        if config is not None and [recorded(rule) for rule in config.rules] == theirs:
            return compile_rules(config.rules)
        if any("sha256" in rule for rule in theirs):
            raise NoRules("rules that are functions are not those of this recipe")
        return compile_rules([RuleConfig.model_validate(rule) for rule in theirs])
    except UserError as error:
        raise NoRules(f"the rules cannot be applied: {error}") from None


def candidates(rows: pa.Table, rule: str) -> pa.Table:
    """Documents that the rule changed: a few of the kept, then a few of the excluded, always the same."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = rows["changed_by"].combine_chunks()
    places = pc.list_parent_indices(lists).filter(pc.equal(pc.list_flatten(lists), rule))
    mask = np.zeros(len(rows), np.bool_)
    mask[np.asarray(places)] = True
    short = pc.less_equal(rows["num_characters_in"], MAX_CHARACTERS)
    shown = pc.invert(pc.is_in(rows["reason"], pa.array(NO_SAMPLE)))
    fitting = pc.and_(pc.and_(pa.chunked_array([pa.array(mask)]), short), shown)
    kept, excluded = pc.and_(fitting, rows["kept"]), pc.and_(fitting, pc.invert(rows["kept"]))
    return pa.concat_tables([drawn(rows, kept, NUM_CANDIDATES), drawn(rows, excluded, NUM_CANDIDATES)])


def changes(
    texts: Mapping[str, str],
    touched: Mapping[str, Sequence[str]],
    rules: Sequence[Rule],
    kinds: Sequence[ProtectedKind],
) -> dict[str, tuple[Change, ...]]:
    """By rule a few documents before and after it.

    Args:
        texts: by id, as they were read.
        touched: for each rule the ids of its candidates, in order.

    Raises:
        NoRules: a function of the user's fails.
    """
    import pyarrow as pa

    if not texts:
        return {}
    ids = list(texts)
    stages = applied(pa.array(texts.values(), pa.large_string()), rules)
    shown = _showing_the_same(stages, kinds)
    texts_at = [masked(stage, kinds) for stage in stages]
    places = {name: i for i, name in enumerate(ids)}
    found: dict[str, tuple[Change, ...]] = {}
    for number, rule in enumerate(rules):
        chosen = [places[name] for name in touched.get(rule.name, ()) if name in places and shown[places[name]]]
        pairs = [(ids[i], texts_at[number][i], texts_at[number + 1][i]) for i in chosen]
        samples = [
            Change(id=n, **dict(zip(("before", "after"), excerpt(a, b), strict=True))) for n, a, b in pairs if a != b
        ]
        found[rule.name] = tuple(samples[:NUM_SAMPLES])
    return found


def applied(texts: pa.Array, rules: Sequence[Rule]) -> list[Any]:
    """The texts, and what they are behind each rule.

    Raises:
        NoRules: a function of the user's fails.
    """
    stages: list[Any] = [texts]
    try:
        for rule in rules:
            stages.append(rule.apply(stages[-1]))
    except FunctionFailed as error:
        raise NoRules(f"a rule fails on a document that it was applied to before: {error.told}") from None
    return stages


def masked(texts: pa.Array, kinds: Sequence[ProtectedKind]) -> list[str]:
    """Under no key: where the dataset has a hash for a value, a sample has the mask."""
    column = protect_column(texts, dict.fromkeys(kinds, "mask"), b"")[0] if kinds else texts
    found: list[str] = column.to_pylist()
    return found


def _showing_the_same(stages: Sequence[pa.Array], kinds: Sequence[ProtectedKind]) -> list[bool]:
    """Of each text, whether the same values are seen in it at all stages, as it stands and repaired."""
    same = [True] * len(stages[0])
    if not kinds:
        return same
    first = _values(stages[0], kinds)
    for stage in (stages[0], *stages[1:]):
        for column in (stage, repair_column(stage)):
            seen = _values(column, kinds)
            same = [is_same and seen[i] == first[i] for i, is_same in enumerate(same)]
    return same


def _values(texts: pa.Array, kinds: Sequence[ProtectedKind]) -> list[list[tuple[str, str]]]:
    values: list[list[tuple[str, str]]] = [[] for _ in texts]
    for i, (text, spans) in find(texts, kinds).items():
        values[i] = [(span.kind, text[span.start : span.end]) for span in spans]
    return values
