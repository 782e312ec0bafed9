"""The history of a dataset in words, a line each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.data.decide import EXCLUDED, HELDOUT, spelt
from pipelines.data.history import changed_files, changed_settings

if TYPE_CHECKING:
    from cluster.artifacts import Dataset, Repeated
    from cluster.descent import Descent, Model
    from pipelines.data.forget import Forgotten
    from pipelines.data.history import Change, Difference, Versions
    from pipelines.data.trace import Fate, Trace

MAX_CHANGES = 12
"""Settings and files a list of which is printed; `--json` has all."""


def log_lines(versions: Versions, last: int | None = None) -> Iterator[str]:
    """Newest first, each with what it changed against the one before."""
    before: list[Dataset | None] = [None, *versions.found]
    newest_first = list(zip(before, versions.found, strict=False))[::-1]
    for old, new in newest_first[:last]:
        yield f"{new.key}  {new.made_at:%Y-%m-%d %H:%M:%S}  {new.summary}"
        yield from (f"    {line}" for line in _what_changed(old, new))
    for key in versions.unreadable:
        yield f"{key}  another version of serinus wrote it; not readable here"


def _what_changed(old: Dataset | None, new: Dataset) -> list[str]:
    if old is None:
        return [f"the first; {len(new.sources)} input files, {len(new.rules)} rules and filters"]
    changes = [*_changes("", changed_settings(old, new)), *_changes("file ", changed_files(old, new))]
    return _some(changes) or ["the same input and settings"]


def _some(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - MAX_CHANGES} more"] if len(lines) > MAX_CHANGES else []
    return [*lines[:MAX_CHANGES], *more]


def _changes(what: str, changes: Iterable[Change]) -> Iterator[str]:
    for change in changes:
        name = f"{what}{change.what}"
        if what:  # hashes say little to people
            yield f"{name}: {'new' if change.old is None else 'gone' if change.new is None else 'other content'}"
        elif change.old is None or change.new is None:
            yield f"{name}: {'none' if change.old is None else _value(change.old)} -> " + (
                "none" if change.new is None else _value(change.new)
            )
        else:
            yield f"{name}: {_value(change.old)} -> {_value(change.new)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_lines(dataset: Dataset, made: Descent, *, recorded: bool) -> Iterator[str]:
    """One version's figures."""
    yield f"version {dataset.key}, made {dataset.made_at:%Y-%m-%d %H:%M:%S} by {dataset.made_by} in {dataset.took_s:.1f} s"
    yield f"  digest      {dataset.digest}"
    yield f"  rule set    {dataset.rules_digest}"
    yield f"  input       {len(dataset.sources)} files, {sum(source.num_bytes for source in dataset.sources)} bytes"
    yield f"  documents   {dataset.num_documents} in, {dataset.num_kept} kept, {dataset.num_excluded} excluded"
    yield f"  kept        {dataset.num_train} to train, {dataset.num_heldout} held out"
    yield f"  characters  {dataset.num_characters_in} in, {dataset.num_characters_kept} kept"
    yield from _figures("excluded as", dataset.num_excluded_by_reason)
    yield from _figures("rewritten by", dataset.num_changed_by_rule)
    yield from _figures("protected", dataset.num_protected_by_kind)
    if dataset.repeated:
        yield f"  removed       {repeated_text(dataset.repeated)}"
    yield from (f"  shard {b.path}  {b.num_documents} documents, hash {b.sha256[:16]}" for b in dataset.batches)
    if not recorded:
        yield "  no record of each document: an earlier version of serinus made it"
    yield from _seen("  ", made, "made of it:")


def repeated_text(found: Repeated) -> str:
    what = spelt(found.num_lines, found.num_paragraphs) or "nothing"
    return f"{what} that stood before, {found.num_characters} characters"


def _figures(what: str, counts: dict[str, int]) -> Iterator[str]:
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {what:<13} {name:<28} {count}"


def diff_lines(found: Difference) -> Iterator[str]:
    yield f"{found.old} -> {found.new}"
    changes = [*_changes("", found.settings), *_changes("file ", found.files)]
    yield from (f"  {line}" for line in _some(changes) or ["the same input and settings"])
    yield f"  {found.num_same} documents came out the same"
    for kind, count in found.documents.items():
        yield f"  {count} {kind}"
        examples = found.examples[kind]
        yield from (f"    {moved.id}: {moved.why}" for moved in examples)
        if count > len(examples) > 0:
            yield f"    ... and {count - len(examples)} more"


def trace_lines(found: Trace) -> Iterator[str]:
    """From the source file to the aliases. A version that says what a newer one said is told in a line."""
    yield found.id
    if found.forgotten:
        yield f"  to be forgotten, by {found.forgotten.who}, {found.forgotten.at:%Y-%m-%d %H:%M:%S}"
    told: Fate | None = None
    for fate in found.fates:
        yield f"  in version {fate.version} of {fate.made_at:%Y-%m-%d %H:%M:%S}"
        yield from (f"    {line}" for line in _fate(fate, told))
        told = fate


def _fate(fate: Fate, newer: Fate | None) -> Iterator[str]:
    if newer is None or (fate.source, fate.position, fate.span) != (newer.source, newer.position, newer.span):
        yield f"from        {_origin(fate)}"
        yield f"            sha256 {fate.source_sha256}"
    yield f"became      {_became(fate)}"
    if fate.recorded and fate.reason != "forgotten":
        lengths = f"; {fate.num_characters_in} characters in, {fate.num_characters} out"
        yield f"rewritten   by {', '.join(fate.changed_by) or 'no rule'}{lengths}"
    if fate.num_repeated_characters:
        what = spelt(fate.num_repeated_lines, fate.num_repeated_paragraphs)
        yield f"removed     {what} that stood before, {fate.num_repeated_characters} characters"
    if not fate.recorded:
        yield "rewritten   not on record: an earlier version of serinus made this one"
    if fate.instead:
        yield f"instead     {fate.instead} was kept{f', in version {fate.instead_in}' if fate.instead_in else ''}"
    if fate.split == HELDOUT and not fate.seen_by.models:
        num = len(fate.seen_by.evaluations)
        yield f"seen by     no model: it was held out; {num} evaluation(s) could draw items from it"
    elif fate.split != EXCLUDED or fate.instead:
        yield from _seen("", fate.seen_by, "seen by" + (f", as {fate.instead}:" if fate.instead else ":"))


def _origin(fate: Fate) -> str:
    span = f"bytes {fate.span[0]} to {fate.span[1]}, " if fate.span else ""
    origin = f": {fate.origin}" if fate.origin else ""
    return f"{fate.source}, {span}line, row, element or record {fate.position}{origin}"


def _became(fate: Fate) -> str:
    where = f"{fate.shard}, row {fate.row}"
    if fate.split == EXCLUDED:
        return f"excluded as {fate.reason}{f' ({fate.detail})' if fate.detail else ''}: {where}"
    use = "held out" if fate.split == HELDOUT else "to train"
    return f"kept {use}: {where}{f', language {fate.language}' if fate.language else ''}"


def _seen(indent: str, made: Descent, heading: str) -> Iterator[str]:
    yield f"{indent}{heading}" + ("" if made.models else " no model")
    yield from (f"{indent}  {_model(model)}" for model in made.models)


def _model(model: Model) -> str:
    names = " ".join(model.aliases).upper()
    was = f"was {', '.join(model.was)}" if model.was else ""
    place = "  ".join(filter(None, (names, was)))
    return f"{model.kind:<11}{model.revision or model.key:<22} {model.how}{f'  [{place}]' if place else ''}"


def forget_lines(done: Forgotten) -> Iterator[str]:
    if done.already:
        yield f"{done.id} was forgotten already: version {done.now} is without it, nothing was changed"
    elif done.now:
        yield f"{done.id} is forgotten: version {done.now} is {done.before} without it"
    else:
        yield f"{done.id} is on the list of the forgotten. Version {done.before} has no record: serinus run RECIPE makes the next"
    if done.instead:
        yield f"  {done.instead} has the same words and is kept in its place: serinus data forget {done.instead}"
    for copy in done.copies:
        yield f"  {copy} is a copy of it, and stays out"
    if done.still_in:
        yield f"  it is still in {', '.join(done.still_in)}: versions never change"
    if done.annotated_in:
        yield f"  and in annotations {', '.join(done.annotated_in)}: remove their folders under artifacts/annotations"
    if done.interrupted:
        yield f"  perhaps in blocks of cleanings under way or interrupted, {', '.join(done.interrupted)}: end them, or remove"
        yield "  their folders under runs/clean"
    yield f"  and in its source, {done.source}"
    if done.seen_by.evaluations:
        yield f"  {len(done.seen_by.evaluations)} evaluation(s) could draw items from it: serinus run RECIPE makes new ones"
    yield from _seen("  ", done.seen_by, "to retrain, with serinus run RECIPE:")
