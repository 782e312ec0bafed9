"""The records of a rollout's requests: gathered until the next look, judged, and kept for good as Parquet.

    rollouts/<name>/<id>/judge.arrow    what the judge made of the looks in storage (looks.py) up to some: a bookmark (snapshot.py)

A record belongs to the stretch of one weight (window) in which it was looked at: no gateway's clock, however far off, moves it to
another. The look's number stands with each row, so that the same blocks, and with them the same e-values, come back from storage.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from cluster.storage import Storage
from services.config import RolloutConfig
from services.contract import PairedScore, RequestRecord, Role
from services.rollout.findings import Evidence
from services.rollout.judge import Judge, Look
from services.rollout.looks import MODELS, Row, Seen, alone, columns, keys_of, on_copies, stored_looks, write_rows
from services.rollout.snapshot import Snapshot, pack, unpack
from services.rollout.status import RolloutStatus, folder
from services.rollout.votes import Ballot, UserVote

RECENT_FILES = 40
"""Of a snapshot, whose requests are remembered after a restart: three minutes at the pace of `loop.FLUSH_S`; a gateway takes a
call for lost after half a minute."""
MAX_KNOWN = 50_000
"""Records of each side remembered so that one told twice counts once; the oldest are forgotten first."""


DEATH = datetime.min
"""In place of a moment."""


def _identity(request_id: str, at: datetime, replica: str | None) -> tuple[str, datetime]:
    """A client may send one id with all its requests; no two of them end at the same moment at one gateway.

    A replica's death is one event, whoever of the requests in flight and of the gateways tells of it.
    """
    return (request_id, at) if replica is None else (f"replica {replica}", DEATH)


class EvidenceStore:
    """Evidence of one rollout. Threads may add while another looks."""

    def __init__(self, storage: Storage, status: RolloutStatus) -> None:
        import pyarrow.parquet  # noqa: F401  (takes a second the first time: not in a rollback's way)

        self._storage, self._folder, self._id = storage, folder(status.name, status.id), status.id
        self._revisions: dict[Role, str] = {"stable": status.stable, "canary": status.candidate}
        self._known: dict[Role, dict[tuple[str, datetime], None]] = {"stable": {}, "canary": {}}
        self._records: list[RequestRecord] = []
        self._scores: list[PairedScore] = []
        self._known_items: set[str] = set()
        self._ballot = Ballot() if status.config.feedback else None
        self._unwritten: dict[str, list[Row]] = {kind: [] for kind in MODELS}
        self._lock = threading.Lock()
        self._num_files = {kind: len(keys_of(storage, self._folder, kind)) for kind in MODELS}
        restored = _fitting(storage, self._folder, status.config)
        self._remember_recent(restored.num_files)
        self._judge = restored.judge
        for look in stored_looks(storage, status, restored.num_files):
            for record in look.records:
                self._note(record)
            self._known_items |= {score.item for score in look.scores}
            self._know_voters(vote.bucket for vote in look.votes)
            self._judge = self._judge.see(look)

    def _remember_recent(self, num_files: Mapping[str, int]) -> None:
        """Of what is in the snapshot, that which gateways may tell again, since its receipt was lost with the controller."""
        evidence, scores, votes = (keys_of(self._storage, self._folder, kind)[: num_files[kind]] for kind in MODELS)
        for key in evidence[-RECENT_FILES:]:
            found = columns(self._storage, key, "role", "request_id", "at", "replica")
            for role, request_id, at, replica in zip(*found, strict=True):
                self._known[role][_identity(request_id, at, replica)] = None
        for key in scores:  # all: an item counts once in a rollout, and there are thousands at most
            self._known_items |= set(columns(self._storage, key, "item")[0])
        for key in votes:  # so does a user
            self._know_voters(columns(self._storage, key, "bucket")[0])

    def _know_voters(self, buckets: Iterable[float]) -> None:
        if self._ballot is not None:
            self._ballot.know(buckets)

    def add(self, records: Iterable[RequestRecord]) -> None:
        """Take in what gateways tell; a record told twice, since its receipt was lost, counts once. One of another rollout does not
        count: the same candidate may be tried again while its last answers are still on their way here."""
        with self._lock:
            ours = (record for record in records if record.rollout in (self._id, None))
            self._records += [record for record in ours if self._note(record)]

    def add_scores(self, scores: Iterable[PairedScore]) -> None:
        """Take in items that both revisions answered; an item counts once, the first time.

        The test takes items as draws from all the questions that they stand for. Asked once more, the same item is not another
        draw: at temperature 0 it is the same number again, and a wealth that multiplied it would grow out of nothing.
        """
        with self._lock:
            for score in scores:
                if score.item not in self._known_items:
                    self._known_items.add(score.item)
                    self._scores.append(score)

    def add_vote(self, vote: UserVote) -> None:
        """Take in a user's vote, where votes are evidence. One on another rollout's answer is none, however late it comes."""
        ours = vote.rollout in (self._id, None) and vote.revision == self._revisions[vote.role]
        if self._ballot is not None and ours:
            with self._lock:
                self._ballot.add(vote)

    def scored(self) -> frozenset[str]:
        """Names of the items that count."""
        with self._lock:
            return frozenset(self._known_items)

    def _note(self, record: RequestRecord) -> bool:
        side = self._known[record.role]
        identity = _identity(record.request_id, record.at, record.replica)
        if record.revision != self._revisions[record.role] or identity in side:
            return False
        side[identity] = None
        if len(side) > MAX_KNOWN:
            del side[next(iter(side))]
        return True

    def look(self, status: RolloutStatus, now: datetime) -> Evidence:
        """The evidence with what came since the last look, in the stretch that `status` is in."""
        with self._lock:
            (records, self._records), (scores, self._scores) = (self._records, []), (self._scores, [])
            votes = self._ballot.take() if self._ballot is not None else []
        # Until every gateway applies a new weight, what comes in still belongs to the stretch before.
        window = status.window if status.weight_applied_at else max(1, status.window - 1)
        judge = self._judge.enter(window)
        if records or scores or votes:
            number, seen = judge.look + 1, (tuple(records), tuple(scores), tuple(votes))
            judge = judge.see(Look(number, window, now, alone(status, window), *seen, copies=on_copies(status, window)))
            kinds: dict[str, Sequence[Seen]] = {"evidence": records, "scores": scores, "votes": votes}
            for kind, rows in kinds.items():
                self._unwritten[kind] += [Row(number, window, now, one) for one in rows]
        self._judge = judge
        return judge.evidence

    def flush(self) -> None:
        """Write what was looked at since the last time. Killed before, a controller loses only that, and what was decided
        is decided anew."""
        for kind in self._unwritten:
            self._write(kind)

    def save(self) -> None:
        """Write what the judge knows beside the evidence, so that a restart folds only what comes after. Not before all that was
        looked at is written: then nothing."""
        if not any(self._unwritten.values()):
            content = pack(Snapshot(self._judge, dict(self._num_files)))
            self._storage.write(_snapshot_key(self._folder), content)

    def _write(self, kind: str) -> None:
        """Kept until storage has them: a write that fails is tried again with the next."""
        rows = list(self._unwritten[kind])
        if not rows:
            return
        key = f"{self._folder}/{kind}-{self._num_files[kind] + 1:06d}.parquet"
        write_rows(self._storage, key, kind, rows)
        self._num_files[kind] += 1
        del self._unwritten[kind][: len(rows)]


def _fitting(storage: Storage, where: str, config: RolloutConfig) -> Snapshot:
    """The stored snapshot if it fits the evidence: it ends with the look that its files end with, and the next file begins with
    a later one. Otherwise, where there is no doubt, the judge that has seen nothing."""
    nothing = Snapshot(Judge.start(config), dict.fromkeys(MODELS, 0))
    blob = storage.read(_snapshot_key(where))
    found = unpack(blob.content, config) if blob else None
    if found is None:
        return nothing
    keys = {kind: keys_of(storage, where, kind) for kind in nothing.num_files}
    if any(len(keys[kind]) < found.num_files.get(kind, 0) for kind in keys):
        return nothing
    last, first = [0], []
    for kind, present in keys.items():
        number = found.num_files.get(kind, 0)
        last += columns(storage, present[number - 1], "look")[0][-1:] if number else []
        first += columns(storage, present[number], "look")[0][:1] if number < len(present) else []
    fits = max(last) == found.judge.look and all(look > found.judge.look for look in first)
    return found if fits else nothing


def _snapshot_key(where: str) -> str:
    return f"{where}/judge.arrow"
