"""What must hold of a dataset, and what people should look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cluster.artifacts import Dataset
from pipelines.data.decide import HELDOUT, TRAIN
from pipelines.data.inventory import UNREADABLE
from pipelines.data.report.figures import Asked, Check, Labels, Likeness
from pipelines.data.report.pairs import num_unfounded
from pipelines.data.report.shards import Shards

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST = 3
SHARES = "the shares that the recipe asks for are there"
RELIABLE, TENTATIVE = 0.8, 0.667
"""Krippendorff's bounds of alpha: for conclusions, and for tentative ones (Krippendorff 2004, section 11.4)."""


def checks(dataset: Dataset, rows: pa.Table, shards: Shards, *, recorded: bool) -> Iterator[Check]:
    yield from _counted(dataset, rows)
    yield from _stored(dataset, shards, recorded=recorded)
    yield from _duplicates(dataset, rows, recorded=recorded)
    yield from _inputs(dataset, rows, shards)
    yield from _splits(rows)


def _counted(dataset: Dataset, rows: pa.Table) -> Iterator[Check]:
    num = len(rows)
    whole = num == dataset.num_documents == dataset.num_kept + dataset.num_excluded
    yield Check(what="documents in are documents kept and excluded", ok=whole, found=f"{num:,} on record")
    reasons = {entry["values"]: entry["counts"] for entry in rows["reason"].value_counts().to_pylist()}
    same = {reason: n for reason, n in reasons.items() if reason} == dataset.num_excluded_by_reason
    yield Check(what="the manifest counts each reason as the record does", ok=same, found=f"{len(reasons)} fates")
    ids = len(rows["id"].unique())
    yield Check(what="every document has an id of its own", ok=ids == num, found=f"{ids:,} ids")


def _stored(dataset: Dataset, shards: Shards, *, recorded: bool) -> Iterator[Check]:
    def check(what: str, paths: Sequence[str], means: str) -> Check:
        return Check(what=what, ok=not paths, found=_some(paths) or f"{len(dataset.batches):,} shards", means=means)

    yield check(
        "every shard has the hash that the manifest tells",
        shards.damaged,
        "otherwise ids or texts were changed since it was made",
    )
    yield check(
        "schema: all shards of a kind have the same columns, and no id or text is null",
        shards.other_schema,
        "otherwise readers fail at that shard",
    )
    yield check("encoding: all columns are valid UTF-8", shards.not_utf8, "otherwise readers fail, or show other signs")
    if recorded:
        means = "otherwise serinus data trace and forget name other documents than the shards hold"
        yield check("every shard has the documents of its record, in order", shards.out_of_step, means)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:LARGEST]) + (f" and {len(names) - LARGEST:,} more" if len(names) > LARGEST else "")


def _duplicates(dataset: Dataset, rows: pa.Table, *, recorded: bool) -> Iterator[Check]:
    import pyarrow.compute as pc

    kept = rows.filter(rows["kept"])
    if recorded and dataset.config.get("dedup", {}).get("exact"):
        repeated = len(kept) - len(kept["fingerprint"].unique())
        found = f"{repeated:,} repeated among {len(kept):,} kept"
        cut = any(dataset.config["dedup"].get(name) for name in ("lines", "paragraphs"))
        when = ", before repeated text was taken out" if cut else ""
        yield Check(what=f"no two kept documents have the same words{when}", ok=not repeated, found=found)
    if recorded:
        prints = {split: kept.filter(pc.equal(kept["split"], split))["fingerprint"] for split in (TRAIN, HELDOUT)}
        both = int(pc.sum(pc.is_in(prints[HELDOUT], prints[TRAIN].combine_chunks())).as_py() or 0)
        what, means = "no held-out document has the words of one to train on", "otherwise perplexity is told too low"
        yield Check(what=what, ok=not both, found=f"{both:,} in both", means=means)
        num = num_unfounded(rows)
        what = "every duplicate was taken out for a document that stays"
        yield Check(what=what, ok=not num, found=f"{num:,} for one that does not", means="otherwise its text is lost")
        yield _addresses(kept)
    yield Check(what="documents that stand for others", ok=None, found=_largest_groups(rows))


def _addresses(kept: pa.Table) -> Check:
    """Of one page fetched twice, or of two that one address stands for, both stay where their texts are not alike."""
    import pyarrow as pa
    import pyarrow.compute as pc

    told = kept.filter(pc.not_equal(kept["host"], ""))
    addresses = pc.list_element(pc.split_pattern(told["origin"], " ", max_splits=1), 0)
    table = pa.table({"address": addresses, "text": told["text_hash"]})
    found = table.group_by("address").aggregate([("text", "count_distinct")])
    several = found.filter(pc.greater(found["text_count_distinct"], 1))
    names = sorted(several["address"].to_pylist())[:LARGEST]
    return Check(
        what="conflicting duplicates: addresses that several different texts are kept of",
        ok=None,
        found=f"{len(several):,} of {len(found):,} addresses" + (f"; {', '.join(names)}" if names else ""),
        means="pages fetched at different times contradict one another, or an address stands for many pages",
    )


def _largest_groups(rows: pa.Table) -> str:
    import pyarrow.compute as pc

    copies = rows.filter(pc.equal(rows["fate"], "duplicates"))
    groups = copies.append_column("of", pc.utf8_slice_codeunits(copies["detail"], len("of "))).group_by("of")
    found = groups.aggregate([([], "count_all")]).sort_by([("count_all", "descending"), ("of", "ascending")])
    most = ", ".join(f"{group['of']} for {group['count_all']:,}" for group in found.slice(0, LARGEST).to_pylist())
    return f"{len(found):,}" + (f"; most: {most}" if most else "")


def _inputs(dataset: Dataset, rows: pa.Table, shards: Shards) -> Iterator[Check]:
    import pyarrow.compute as pc

    what = "kept texts with a mark for unreadable bytes (U+FFFD)"
    yield Check(
        what=what, ok=None, found=f"{shards.num_replaced:,}", means="their files are in another encoding, or damaged"
    )
    broken = int(pc.sum(pc.equal(rows["fate"], "no document")).as_py() or 0)
    yield Check(what="places in the input that could not become a document", ok=None, found=f"{broken:,}")
    by_hash: dict[str, list[str]] = {}
    for source in dataset.sources:
        by_hash.setdefault(source.sha256, []).append(source.path)
    same = [" = ".join(paths) for sha256, paths in by_hash.items() if len(paths) > 1 and sha256 != UNREADABLE]
    found = f"{len(same):,}" + (f"; {_some(same)}" if same else "")
    yield Check(what="input files that are there more than once", ok=None, found=found)


def _splits(rows: pa.Table) -> Iterator[Check]:
    import pyarrow.compute as pc

    parts = {split: rows.filter(pc.equal(rows["split"], split)) for split in (TRAIN, HELDOUT)}
    for what, number in (("characters a document", _mean_length), ("English documents", _percent_english)):
        halves = ", ".join(f"{number(part)} in {split}" for split, part in parts.items())
        means = "held-out figures speak for the training split where the two are alike"
        yield Check(what=f"{what}, to train and held out", ok=None, found=halves, means=means)


def _mean_length(rows: pa.Table) -> str:
    import pyarrow.compute as pc

    return f"{pc.mean(rows['num_characters']).as_py():.0f}" if len(rows) else "none"


def _percent_english(rows: pa.Table) -> str:
    import pyarrow.compute as pc

    english = pc.sum(pc.equal(rows["language"], "en")).as_py() or 0
    return f"{100 * english / len(rows):.1f} %" if len(rows) else "none"


def of_samples(num_unrepaired: int, num_sampled: int, like: Likeness) -> Iterator[Check]:
    """What is told of a few documents only."""
    yield Check(
        what="encoding: kept texts that repair_unicode would still change, of a sample",
        ok=None,
        found=f"{num_unrepaired:,} of {num_sampled:,}",
        means="mojibake, invisible characters or no NFC: the rule is missing, or another one brings them in",
    )
    if like.num_pairs:
        yield Check(
            what="conflicting duplicates: near duplicates that tell another number in the same place, of a sample",
            ok=None,
            found=f"{like.num_other_numbers:,} of {like.num_pairs:,} pairs",
            means="revisions of one text, or records that differ in their figures alone, of which one is kept",
        )


def of_shares(asked: Sequence[Asked]) -> Iterator[Check]:
    short = [f"{one.name} {100 * one.found:.3g} % of {100 * one.asked:.3g} %" for one in asked if not one.holds]
    if asked:
        found = _some(short) or f"all {len(asked)}"
        yield Check(what=SHARES, ok=not short, found=found)


def of_labels(labels: Sequence[Labels]) -> Iterator[Check]:
    for one in labels:
        told = [f"{layer.name} {layer.alpha:.3f}" for layer in one.layers if layer.alpha is not None]
        bounds = f"Krippendorff's alpha: {RELIABLE} for conclusions, {TENTATIVE} for tentative ones"
        what = f"label agreement, annotations {one.key}"
        yield Check(what=what, ok=None, found=", ".join(told) or "nothing to compare", means=bounds)
