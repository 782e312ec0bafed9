"""How good a dataset is, in figures: clean, comprehensive, consistent. From its manifest, its record and its shards.

    record -> one table, counted by columns -> which few documents are shown -> shards, each read once -> their texts

What is shown of texts are a few documents, drawn by their ids: the same ones whatever the number of workers, and in the next
version again. Texts before the rules are read again from the sources, where the recipe's are those of the dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.artifacts import Dataset
from cluster.errors import UserError
from cluster.storage import Storage
from pipelines.config import DataConfig
from pipelines.config.data import ProtectedKind, SharesConfig
from pipelines.data.record import is_recorded
from pipelines.data.repair import repair_column
from pipelines.data.report import changes as report_changes
from pipelines.data.report import checks as report_checks
from pipelines.data.report import counts as report_counts
from pipelines.data.report import pairs as report_pairs
from pipelines.data.report import shares as report_shares
from pipelines.data.report import topics as report_topics
from pipelines.data.report.again import read_again, source_files
from pipelines.data.report.changes import NoRules
from pipelines.data.report.excerpt import around
from pipelines.data.report.figures import Change, Dropped, Likeness, Report, Rewritten, Sample
from pipelines.data.report.labels import labels
from pipelines.data.report.rows import drawn, read_rows
from pipelines.data.report.shards import Place, Shards, read_shards
from pipelines.data.rules import Rule

if TYPE_CHECKING:
    import pyarrow as pa

NUM_SAMPLES = 3
SAMPLE_CHARACTERS = 300
NUM_SAMPLED = 2_000
"""Kept documents whose texts are looked at for topics and encoding."""


class _Drawn(NamedTuple):
    """Documents whose texts are asked for."""

    by_reason: dict[str, pa.Table]
    by_rule: dict[str, pa.Table]
    masked: pa.Table
    kept: pa.Table
    pairs: tuple[pa.Table, pa.Table]
    """Near duplicates, and what stays in place of each."""

    @property
    def places(self) -> list[Place]:
        tables = (*self.by_reason.values(), *self.by_rule.values(), self.masked, self.kept, *self.pairs)
        return [place for table in tables for place in _places(table)]


def report(storage: Storage, dataset: Dataset, config: DataConfig | None = None) -> Report:
    """Reads every shard once, one at a time, and a few documents of the sources.

    Args:
        config: of the recipe: the shares that it asks for, and where the sources lie. None: no shares, and no texts before the
            rules but those of excluded documents.
    """
    recorded = is_recorded(storage, dataset)
    rows = read_rows(storage, dataset, recorded=recorded)
    chosen = _draw(dataset, rows)
    shards = read_shards(storage, dataset, rows, chosen.places)
    rules, why = _rules(dataset, config)
    changed, why = _changes(dataset, config, chosen, shards, rules) if rules is not None else ({}, why)
    like = _likeness(dataset, chosen, shards, rules or ())
    texts = [(row, shards.texts[place]) for row, place in _with_places(chosen.kept) if place in shards.texts]
    asked = report_shares.asked(
        config.shares if config else SharesConfig(),
        rows,
        [report_shares.Text(text, row["num_characters"]) for row, text in texts],
    )
    agreement = labels(storage, dataset)
    languages = report_counts.by_language(rows)
    allowed = dataset.config.get("filters", {}).get("languages", ())
    checks = (
        *report_checks.checks(dataset, rows, shards, recorded=recorded),
        *report_checks.of_samples(_num_unrepaired([text for _, text in texts]), len(texts), like),
        *report_checks.of_shares(asked),
        *report_checks.of_labels(agreement),
    )
    return Report(
        version=dataset.key,
        digest=dataset.digest,
        made_at=dataset.made_at,
        num_documents=dataset.num_documents,
        num_train=dataset.num_train,
        num_heldout=dataset.num_heldout,
        num_characters_in=dataset.num_characters_in,
        num_characters_kept=dataset.num_characters_kept,
        steps=report_counts.steps(rows),
        num_changed_by_rule=dataset.num_changed_by_rule,
        rewritten=_rewritten(dataset, rows, changed),
        no_samples=why,
        num_protected_by_kind=dataset.num_protected_by_kind,
        masked=_masked(chosen.masked, shards),
        dropped=_dropped(dataset, rows, chosen, shards),
        fates=report_counts.fates(rows),
        languages=languages,
        missing_languages=tuple(sorted(set(allowed) - {share.name for share in languages if share.num_kept})),
        sources=report_counts.shares(rows, "folder"),
        domains=report_counts.by_domain(rows),
        lengths=report_counts.by_length(rows),
        topics=report_topics.topics(
            [report_topics.Sampled(row["id"], row["language"], report_topics.words_of(text)) for row, text in texts]
        ),
        asked=asked,
        likeness=like,
        overlaps=report_pairs.overlaps(rows),
        labels=agreement,
        checks=checks,
    )


# --- drawn ------------------------------------------------------------------------------------------------------------


def _draw(dataset: Dataset, rows: pa.Table) -> _Drawn:
    import pyarrow.compute as pc

    rules = [rule["name"] for rule in dataset.config.get("rules", [])]
    protected = report_changes.candidates(rows, "protect")
    return _Drawn(
        {name: drawn(rows, pc.equal(rows["reason"], name), NUM_SAMPLES) for name in dataset.num_excluded_by_reason},
        {name: report_changes.candidates(rows, name) for name in rules},
        protected.filter(protected["kept"]).slice(0, NUM_SAMPLES),
        drawn(rows, rows["kept"], NUM_SAMPLED),
        report_pairs.drawn_pairs(rows),
    )


def _places(table: pa.Table) -> list[Place]:
    return list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))


def _with_places(table: pa.Table) -> list[tuple[dict[str, Any], Place]]:
    return list(zip(table.to_pylist(), _places(table), strict=True))


# --- clean ------------------------------------------------------------------------------------------------------------


def _rules(dataset: Dataset, config: DataConfig | None) -> tuple[tuple[Rule, ...] | None, str]:
    try:
        return report_changes.rules_of(dataset, config), ""
    except NoRules as reason:
        return None, str(reason)


def _changes(
    dataset: Dataset, config: DataConfig | None, chosen: _Drawn, shards: Shards, rules: Sequence[Rule]
) -> tuple[dict[str, tuple[Change, ...]], str]:
    """Samples by rule, and why there are none of kept documents."""
    texts, why = _originals(dataset, config, chosen, shards)
    touched = {name: table["id"].to_pylist() for name, table in chosen.by_rule.items()}
    try:
        return report_changes.changes(texts, touched, rules, _kinds(dataset)), why
    except NoRules as reason:
        return {}, str(reason)


def _kinds(dataset: Dataset) -> list[ProtectedKind]:
    """Of personal data that the dataset was protected against."""
    return [kind for kind, action in dataset.config.get("protect", {}).items() if action]


def _originals(
    dataset: Dataset, config: DataConfig | None, chosen: _Drawn, shards: Shards
) -> tuple[Mapping[str, str], str]:
    """Texts by id before the rules: of excluded documents as they lie in the shards, of others from the sources."""
    rows = [pair for table in chosen.by_rule.values() for pair in _with_places(table)]
    found = {row["id"]: shards.texts[place] for row, place in rows if not row["kept"] and place in shards.texts}
    kept = list({row["id"]: row for row, _ in rows if row["kept"]}.values())
    if config is None or not kept:
        return found, "no recipe was given, so that kept documents are not read again" if kept else ""
    try:
        files = source_files(dataset, config)
    except UserError as error:
        return found, f"the sources are not where the recipe says: {error.where}: {error.found}"
    again = read_again(files, kept, config.max_document_bytes)
    lost = (
        "the recipe's sources are not, or no longer, those of this version: of kept documents none could be read again"
    )
    return found | again, "" if again else lost


def _rewritten(dataset: Dataset, rows: pa.Table, samples: Mapping[str, tuple[Change, ...]]) -> tuple[Rewritten, ...]:
    touched = report_counts.touched(rows)
    found = []
    for name in dataset.num_changed_by_rule:
        counted = touched.get(name, report_counts.Touched())
        found.append(Rewritten(rule=name, **counted._asdict(), samples=samples.get(name, ())))
    return tuple(found)


def _masked(rows: pa.Table, shards: Shards) -> tuple[Sample, ...]:
    found = []
    for row, place in _with_places(rows):
        spans = shards.protected.get(place, [])
        text = shards.texts.get(place, "")
        if spans and spans[0]["end"] <= len(text):
            kinds = ", ".join(sorted({span["kind"] for span in spans}))
            text = around(text, spans[0]["start"], spans[0]["end"])
            found.append(Sample(id=row["id"], detail=f"{len(spans)} values: {kinds}", text=text))
    return tuple(found)


def _dropped(dataset: Dataset, rows: pa.Table, chosen: _Drawn, shards: Shards) -> tuple[Dropped, ...]:
    characters = report_counts.characters_by_reason(rows)
    most = sorted(dataset.num_excluded_by_reason.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        Dropped(
            reason=reason,
            num=num,
            num_characters=characters.get(reason, 0),
            samples=tuple(
                _sample(row, shards.texts.get(place, "")) for row, place in _with_places(chosen.by_reason[reason])
            ),
        )
        for reason, num in most
    )


def _sample(row: Mapping[str, Any], text: str) -> Sample:
    cut = text if len(text) <= SAMPLE_CHARACTERS else f"{text[:SAMPLE_CHARACTERS]}…"
    return Sample(id=row["id"], detail=row["detail"], text=cut)


# --- consistent -------------------------------------------------------------------------------------------------------


def _likeness(dataset: Dataset, chosen: _Drawn, shards: Shards, rules: Sequence[Rule]) -> Likeness:
    """Both texts as the rules leave them: what was taken out lies there as it was read."""
    import pyarrow as pa

    out, stays = (_with_places(table) for table in chosen.pairs)
    both = [(a, b) for a, b in zip(out, stays, strict=True) if a[1] in shards.texts and b[1] in shards.texts]
    if not both:
        return Likeness()
    column = pa.array([shards.texts[place] for (_, place), _ in both], pa.large_string())
    try:
        column = report_changes.applied(column, rules)[-1]
    except NoRules:  # told where the rules are
        return Likeness()
    texts = report_changes.masked(column, _kinds(dataset))  # the rules may show more of a text than was masked
    pairs = [
        report_pairs.Pair(row["id"], shards.texts[place], text)
        for ((row, _), (_, place)), text in zip(both, texts, strict=True)
    ]
    return report_pairs.likeness(pairs, dataset.config.get("dedup", {}).get("ngram", 5))


def _num_unrepaired(texts: Sequence[str]) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.array(texts, pa.large_string())
    return int(pc.sum(pc.not_equal(column, repair_column(column))).as_py() or 0)
