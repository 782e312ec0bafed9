"""Documents counted by what became of them, by rule, language, source, domain and length: column operations on the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.data.report.figures import Fates, Share, Step
from pipelines.data.report.rows import KEPT, KINDS

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DOMAINS = 20


def steps(rows: pa.Table) -> tuple[Step, ...]:
    """From all documents to the kept ones; kinds of reasons that took out nothing are left out."""
    counts = {entry["values"]: entry["counts"] for entry in rows["fate"].value_counts().to_pylist()}
    left, found = len(rows), list[Step]()
    for kind in KINDS:
        if num := counts.get(kind, 0):
            left -= num
            found.append(Step(name=kind, num_out=num, num_left=left))
    return tuple(found)


def fates(rows: pa.Table) -> tuple[Fates, ...]:
    """By source, the largest first."""
    by_name: dict[str, dict[str, int]] = {}
    for row in rows.group_by(["folder", "fate"]).aggregate([([], "count_all")]).to_pylist():
        by_name.setdefault(row["folder"], {})[row["fate"]] = row["count_all"]
    names = sorted(by_name, key=lambda name: (-sum(by_name[name].values()), name))
    order = (KEPT, *KINDS)
    return tuple(
        Fates(name=name, num_by_fate={fate: by_name[name][fate] for fate in order if fate in by_name[name]})
        for name in names
    )


def shares(rows: pa.Table, column: str) -> tuple[Share, ...]:
    """By the values of that column, those with most characters kept first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = rows["kept"]
    table = pa.table(
        {
            "name": rows[column],
            "kept": pc.cast(kept, pa.int64()),
            "characters": pc.if_else(kept, rows["num_characters"], 0),
        }
    )
    found = table.group_by("name").aggregate([([], "count_all"), ("kept", "sum"), ("characters", "sum")])
    told = [
        Share(
            name=str(row["name"]),
            num_in=row["count_all"],
            num_kept=row["kept_sum"],
            num_characters_kept=row["characters_sum"],
        )
        for row in found.to_pylist()
    ]
    return tuple(sorted(told, key=lambda share: (-share.num_characters_kept, -share.num_in, share.name)))


def by_language(rows: pa.Table) -> tuple[Share, ...]:
    """Of documents that came as far as being asked for it."""
    import pyarrow.compute as pc

    told = rows.filter(pc.or_(rows["kept"], pc.not_equal(rows["language"], "")))
    names = pc.if_else(pc.equal(told["language"], ""), "unknown", told["language"])
    return shares(told.set_column(told.schema.get_field_index("language"), "language", names), "language")


def by_domain(rows: pa.Table) -> tuple[Share, ...]:
    """Of documents whose address is on record; of many the largest, and all others as one."""
    import pyarrow.compute as pc

    found = shares(rows.filter(pc.not_equal(rows["host"], "")), "host")
    first, rest = found[:MAX_DOMAINS], found[MAX_DOMAINS:]
    if not rest:
        return found
    others = Share(
        name=f"{len(rest)} others",
        num_in=sum(share.num_in for share in rest),
        num_kept=sum(share.num_kept for share in rest),
        num_characters_kept=sum(share.num_characters_kept for share in rest),
    )
    return (*first, others)


def by_length(rows: pa.Table) -> tuple[Share, ...]:
    """Of the kept, from the shortest to the longest class, with those in between that are empty."""
    import pyarrow as pa

    kept = rows.filter(rows["kept"])
    bits = np.frexp(np.asarray(kept["num_characters"]).astype(np.float64))[1]  # int.bit_length
    counted = shares(kept.append_column("bits", pa.array(bits, pa.int64())), "bits")
    found = {int(share.name): share for share in counted}
    classes = range(min(found, default=0), max(found, default=-1) + 1)
    empty = Share(name="", num_in=0, num_kept=0, num_characters_kept=0)
    return tuple(found.get(number, empty).model_copy(update={"name": _length(number)}) for number in classes)


def _length(bits: int) -> str:
    return f"{(1 << bits) >> 1} to {(1 << bits) - 1}"


class Touched(NamedTuple):
    """Documents that one rule changed."""

    num: int = 0
    num_kept: int = 0
    num_alone: int = 0
    num_characters_out: int = 0


def touched(rows: pa.Table) -> dict[str, Touched]:
    """By rule. What is told of characters is told of documents that no other rule changed: the record has only the whole."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = rows["changed_by"].combine_chunks()
    parents, alone = pc.list_parent_indices(lists), pc.equal(pc.list_value_length(lists), 1)
    out = pc.subtract(rows["num_characters_in"], rows["num_characters"])
    each = rows.select(["kept"]).append_column("alone", alone).append_column("out", pc.if_else(alone, out, 0))
    table = each.take(parents).append_column("rule", pc.list_flatten(lists))
    table = pa.table(
        {
            "rule": table["rule"],
            "kept": pc.cast(table["kept"], pa.int64()),
            "alone": pc.cast(table["alone"], pa.int64()),
            "out": table["out"],
        }
    )
    sums = table.group_by("rule").aggregate([([], "count_all"), ("kept", "sum"), ("alone", "sum"), ("out", "sum")])
    return {
        row["rule"]: Touched(row["count_all"], row["kept_sum"], row["alone_sum"], row["out_sum"])
        for row in sums.to_pylist()
    }


def characters_by_reason(rows: pa.Table) -> dict[str, int]:
    """As they were read."""
    found = rows.group_by("reason").aggregate([("num_characters_in", "sum")])
    return dict(zip(found["reason"].to_pylist(), found["num_characters_in_sum"].to_pylist(), strict=True))
