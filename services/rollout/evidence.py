"""The records of a rollout's requests: bounded in memory, kept for good as Parquet, counted into Evidence.

    rollouts/<name>/<id>/evidence-<number>.parquet    a row per record, with its window (stretch of one weight)

Windows, not clocks, separate the steps: a gateway's clock that is off moves no record to another step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cluster.storage import Storage
from services.contract import HARMFUL, RequestRecord, Role
from services.rollout.policy import Counts, Evidence
from services.rollout.status import RolloutStatus, folder

if TYPE_CHECKING:
    import pyarrow as pa

MAX_RECORDS = 50_000
"""Kept in memory for each side; the oldest go first. At 300 bytes each that is 15 MB."""


def _identity(record: RequestRecord) -> tuple[str, datetime]:
    """A client may send one id with all its requests; no two of them end at the same moment at one gateway."""
    return record.request_id, record.at


class EvidenceStore:
    """Evidence of one rollout. Threads may add while another counts."""

    def __init__(self, storage: Storage, status: RolloutStatus) -> None:
        self._storage, self._folder = storage, folder(status.name, status.id)
        self._revisions: dict[Role, str] = {"stable": status.stable, "canary": status.candidate}
        self._kept: dict[Role, dict[tuple[str, datetime], tuple[int, RequestRecord]]] = {"stable": {}, "canary": {}}
        self._pending: list[tuple[int, RequestRecord]] = []
        self._lock = threading.Lock()
        self._num_files = 0
        for window, record in self._stored():
            self._keep(window, record)

    def add(self, window: int, records: Iterable[RequestRecord]) -> None:
        """Take in what gateways tell; a record told twice, since its receipt was lost, counts once."""
        with self._lock:
            self._pending += [(window, record) for record in records if self._keep(window, record)]

    def _keep(self, window: int, record: RequestRecord) -> bool:
        side = self._kept[record.role]
        if record.revision != self._revisions[record.role] or _identity(record) in side:
            return False
        side[_identity(record)] = (window, record)
        if len(side) > MAX_RECORDS:
            del side[next(iter(side))]
        return True

    def evidence(self, window: int, stable_window: int | None = None) -> Evidence:
        """Counts of the records in `window`; stable's since `stable_window` where it gets no requests in this one."""
        with self._lock:
            stable = [r for w, r in self._kept["stable"].values() if w >= (stable_window or window)]
            canary = [r for w, r in self._kept["canary"].values() if w >= window]
        return Evidence(stable=count(stable), canary=count(canary))

    def flush(self) -> None:
        """Write what came in since the last time. Killed before, a controller loses only that."""
        with self._lock:
            pending, self._pending = self._pending, []
        if not pending:
            return
        import io

        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(_table(pending), buffer, compression="zstd")
        self._num_files += 1
        self._storage.write(f"{self._folder}/evidence-{self._num_files:06d}.parquet", buffer.getvalue())

    def _stored(self) -> Iterable[tuple[int, RequestRecord]]:
        keys = [key for key in self._storage.list(self._folder) if key.endswith(".parquet")]
        self._num_files = len(keys)
        for key in keys:
            blob = self._storage.read(key)
            assert blob is not None, f"{key} was there a moment ago"
            yield from _rows(blob.content)


def count(records: Iterable[RequestRecord]) -> Counts:
    """What one side's records come to."""
    answered = harmful = 0
    waits_s = []
    for record in records:
        answered += record.outcome != "cancelled"
        harmful += record.outcome in HARMFUL
        if record.ttft_s is not None:
            waits_s.append(record.ttft_s)
        elif record.outcome == "cancelled":  # who gave up waited at least so long: a hanging canary must not look fast
            waits_s.append(record.duration_s)
    return Counts(num_requests=answered, num_harmful=harmful, waits_s=tuple(waits_s))


def _table(rows: list[tuple[int, RequestRecord]]) -> pa.Table:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("window", pa.int32()),
            ("request_id", pa.string()),
            ("revision", pa.string()),
            ("role", pa.string()),
            ("bucket", pa.float64()),
            ("outcome", pa.string()),
            ("status", pa.int32()),
            ("ttft_s", pa.float64()),
            ("duration_s", pa.float64()),
            ("num_output_chunks", pa.int32()),
            ("at", pa.timestamp("us", tz="UTC")),
        ]
    )
    return pa.Table.from_pylist([{"window": window, **dict(record)} for window, record in rows], schema=schema)


def _rows(content: bytes) -> Iterable[tuple[int, RequestRecord]]:
    import io

    import pyarrow.parquet as pq

    row: dict[str, Any]
    for row in pq.read_table(io.BytesIO(content)).to_pylist():
        window = row.pop("window")
        yield window, RequestRecord.model_validate(row)
