"""Looks in storage: rows of Parquet, each with the number and moment of the look that saw it and the stretch it belongs to.

rollouts/<name>/<id>/evidence-<number>.parquet    a row per request's record
rollouts/<name>/<id>/scores-<number>.parquet      a row per paired score
rollouts/<name>/<id>/votes-<number>.parquet       a row per user's vote that counts, where votes are evidence
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from cluster.storage import Storage
from services.contract import PairedScore, RequestRecord
from services.rollout.judge import Look
from services.rollout.status import RolloutStatus, folder
from services.rollout.votes import UserVote

if TYPE_CHECKING:
    import pyarrow as pa


Seen = RequestRecord | PairedScore | UserVote
MODELS: Final[dict[str, type[RequestRecord] | type[PairedScore] | type[UserVote]]] = {
    "evidence": RequestRecord, "scores": PairedScore, "votes": UserVote
}  # fmt: skip
"""Kinds of rows, each with files of its own."""


@dataclass(frozen=True)
class Row:
    """What was seen, and by which look."""

    look: int
    window: int
    looked_at: datetime
    seen: Seen


def stored_looks(
    storage: Storage,
    status: RolloutStatus,
    after: Mapping[str, int] | None = None,
    until: Mapping[str, int] | None = None,
) -> Iterator[Look]:
    """The looks that were written, in order, as they were; between those numbers of files of each kind where given."""
    where = folder(status.name, status.id)
    # Each file's rows are in the order of their looks, so that no more than a file of each kind is in memory.
    keys = {kind: keys_of(storage, where, kind)[(after or {}).get(kind, 0) :] for kind in MODELS}
    kinds = (_stored(storage, keys[kind], model) for kind, model in MODELS.items())
    for number, group in groupby(heapq.merge(*kinds, key=lambda row: row.look), key=lambda row: row.look):
        seen = list(group)
        yield Look(
            number=number,
            window=seen[0].window,
            at=seen[0].looked_at,
            alone=alone(status, seen[0].window),
            records=tuple(row.seen for row in seen if isinstance(row.seen, RequestRecord)),
            scores=tuple(row.seen for row in seen if isinstance(row.seen, PairedScore)),
            votes=tuple(row.seen for row in seen if isinstance(row.seen, UserVote)),
            copies=on_copies(status, seen[0].window),
        )


def columns(storage: Storage, key: str, *names: str) -> list[list[Any]]:
    """Those of a file; nothing but None for one that it has not, being older than the column."""
    import pyarrow.parquet as pq

    blob = storage.read(key)
    assert blob is not None, f"{key} was there a moment ago"
    file = pq.ParquetFile(io.BytesIO(blob.content))
    table = file.read(columns=[name for name in names if name in file.schema_arrow.names])
    nothing = [None] * len(table)
    return [table[name].to_pylist() if name in table.column_names else nothing for name in names]


def stored_scores(storage: Storage, status: RolloutStatus) -> list[PairedScore]:
    """The paired scores that were written, in the order in which they counted."""
    rows = _stored(storage, keys_of(storage, folder(status.name, status.id), "scores"), PairedScore)
    return [row.seen for row in rows if isinstance(row.seen, PairedScore)]


def alone(status: RolloutStatus, window: int) -> bool:
    """Whether nobody was on stable in that stretch."""
    return status.decisions[window - 1].weight_percent >= 100


def on_copies(status: RolloutStatus, window: int) -> bool:
    """Whether copied requests were all the canary got in that stretch, in a rollout that is to be judged by them."""
    return status.config.begins_with_copies and status.decisions[window - 1].weight_percent == 0


def keys_of(storage: Storage, where: str, kind: str) -> list[str]:
    """The files of that kind in a rollout's folder, in order."""
    keys = (key for key in storage.list(where) if key.endswith(".parquet"))
    return sorted(key for key in keys if key.rsplit("/", 1)[1].startswith(f"{kind}-"))


def _stored(storage: Storage, keys: list[str], model: type[Seen]) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for key in keys:
        blob = storage.read(key)
        assert blob is not None, f"{key} was there a moment ago"
        row: dict[str, Any]
        for row in pq.read_table(io.BytesIO(blob.content)).to_pylist():
            place = {name: row.pop(name) for name in ("look", "window", "looked_at")}
            yield Row(**place, seen=model(**row))


def write_rows(storage: Storage, key: str, kind: str, rows: list[Row]) -> None:
    """Write one file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(_table(rows, _SCHEMAS[kind]()), buffer, compression="zstd")
    storage.write(key, buffer.getvalue())


def _table(rows: list[Row], fields: list[tuple[str, pa.DataType]]) -> pa.Table:
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    # What the schema does not name (`owner`) is left out.
    schema = pa.schema([("look", pa.int32()), ("window", pa.int32()), ("looked_at", moment), *fields, ("at", moment)])
    places = ({"look": row.look, "window": row.window, "looked_at": row.looked_at, **dict(row.seen)} for row in rows)
    return pa.Table.from_pylist(list(places), schema=schema)


def _record_fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("request_id", "revision", "role", "outcome", "replica", "shadow")]
    numbers = [(name, pa.float64()) for name in ("bucket", "ttft_s", "duration_s", "tpot_s")]
    counts = ("status", "num_output_chunks", "prompt_tokens", "cached_tokens", "output_tokens")
    return [
        *texts,
        *numbers,
        *((name, pa.int32()) for name in counts),
        ("failed_over", pa.bool_()),
        ("cold", pa.bool_()),
    ]


def _score_fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [("item", pa.string()), ("stable", pa.float64()), ("canary", pa.float64())]


def _vote_fields() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("request_id", "revision", "role", "thumb")]
    return [*texts, ("bucket", pa.float64())]


_SCHEMAS: dict[str, Callable[[], list[tuple[str, Any]]]] = {
    "evidence": _record_fields, "scores": _score_fields, "votes": _vote_fields
}  # fmt: skip
