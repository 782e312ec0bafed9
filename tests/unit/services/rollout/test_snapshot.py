"""A snapshot and the rest of the evidence are the whole evidence, to the last bit; what does not fit is thrown away."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.storage import Blob, LocalStorage
from services.config import RolloutConfig, StepConfig
from services.contract import Outcome, PairedScore, RequestRecord
from services.rollout import snapshot
from services.rollout.evidence import RECENT_FILES, EvidenceStore
from services.rollout.judge import Judge, Look
from services.rollout.snapshot import Snapshot, pack, unpack
from services.rollout.status import Decision, RolloutStatus
from services.rollout.votes import UserVote

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = RolloutConfig(feedback=True)
OUTCOMES: tuple[Outcome, ...] = ("ok", "ok", "ok", "empty", "stream_error", "cancelled")

RECORDS = st.builds(
    lambda canary, user, outcome, wait_s, tokens, tpot_s, number: RequestRecord(
        request_id=str(number),
        revision="m-2" if canary else "m-1",
        role="canary" if canary else "stable",
        bucket=user / 7,
        outcome=outcome,
        status=200,
        ttft_s=None if outcome in ("empty", "cancelled") else wait_s,
        duration_s=9.0,
        num_output_chunks=1,
        at=NOW,
        prompt_tokens=tokens,
        tpot_s=tpot_s,
    ),
    st.booleans(),
    st.integers(0, 6),
    st.sampled_from(OUTCOMES),
    st.floats(0.001, 30),
    st.sampled_from([None, 50, 5000]),
    st.one_of(st.none(), st.floats(0.001, 1)),
    st.integers(0, 10**9),
)
SCORES = st.builds(PairedScore, item=st.just("i"), stable=st.floats(0, 1), canary=st.floats(0, 1), at=st.just(NOW))

VOTES = st.builds(
    UserVote,
    request_id=st.just("r"),
    revision=st.just("m"),
    role=st.sampled_from(["stable", "canary"]),
    bucket=st.floats(0, 0.99),
    thumb=st.sampled_from(["up", "down"]),
    at=st.just(NOW),
)


def crowd(number: int, num_stable: int) -> list[RequestRecord]:
    """Enough of stable's waits for limits to be taken from them, and one answer of the canary."""
    base = RequestRecord(request_id="", revision="m-1", role="stable", bucket=0.5, outcome="ok", status=200, ttft_s=0.3,
                         duration_s=1, num_output_chunks=1, at=NOW, prompt_tokens=50, tpot_s=0.03)  # fmt: skip
    stable = [base.replace(request_id=f"{number}-{k}", bucket=k % 7 / 7) for k in range(num_stable)]
    return [*stable, base.replace(request_id=f"{number}-c", role="canary", revision="m-2")]


@st.composite
def some_looks(draw: st.DrawFn) -> list[Look]:
    found, window = [], 1
    for number in range(1, draw(st.integers(2, 8))):
        window += draw(st.sampled_from([0, 0, 1, 3]))
        records = [*crowd(number, draw(st.sampled_from([0, 30]))), *draw(st.lists(RECORDS, max_size=12))]
        scores, votes = (tuple(draw(st.lists(kind, max_size=3))) for kind in (SCORES, VOTES))
        found.append(Look(number, window, NOW, draw(st.booleans()), tuple(records), scores, votes))
    return found


def fold(judge: Judge, looks: list[Look]) -> Judge:
    for look in looks:
        judge = judge.see(look)
    return judge


def bits(judge: Judge) -> object:
    arrays = {path: (array.shape, array.dtype.str, array.tobytes()) for path, array in snapshot._arrays(judge)}
    return arrays, judge.look, judge.window, judge.stable, judge.canary, judge.harmed, judge.failing, judge.config


@settings(max_examples=60, deadline=None)
@given(some_looks(), st.integers(0, 7))
def test_a_snapshot_and_the_rest_are_the_whole_to_the_last_bit(looks: list[Look], cut: int) -> None:
    whole = fold(Judge.start(CONFIG), looks)
    before = fold(Judge.start(CONFIG), looks[:cut])
    restored = unpack(pack(Snapshot(before, {"evidence": 3, "scores": 1})), CONFIG)
    assert restored is not None
    assert bits(restored.judge) == bits(before)
    assert restored.num_files == {"evidence": 3, "scores": 1}
    assert bits(fold(restored.judge, looks[cut:])) == bits(whole)
    assert fold(restored.judge, looks[cut:]).evidence == whole.evidence


def test_nothing_the_judge_knows_is_left_out() -> None:
    """Every array and number of a judge is in `_arrays`, the head, or comes of the configuration alone."""
    paths = {path for path, _ in snapshot._arrays(Judge.start(CONFIG))}
    assert {path.split(".")[0] for path in paths} == {
        "errors",
        "proofs",
        "copies",
        "copy_proofs",
        "ttft",
        "tpot",
        "quality",
        "votes",
        "harmed",
        "carriers",
        "failing",
    }
    assert {path.removeprefix("ttft.") for path in paths if path.startswith("ttft.")} == {
        *("histogram", "limits_s", "rates.log_harm", "rates.log_harm_before", "rates.log_pass", "rates.num_beginnings"),
        *("late.log_wealth", "late.num_canary"),
        *(f"alternatives.{part}" for part in ("stable", "harmful", "good", "pass_margin")),
        *(f"rates.{block}.{part}" for block in ("pending", "closed") for part in
          ("num_stable", "hits_stable", "num_canary", "hits_canary")),
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"no arrow", b"ARROW1\x00\x00" + bytes(100)])
def test_what_is_damaged_is_none(content: bytes) -> None:
    assert unpack(content, CONFIG) is None


def test_a_file_cut_or_with_a_bit_flipped_is_none() -> None:
    whole = pack(Snapshot(Judge.start(CONFIG), {"evidence": 0, "scores": 0}))
    for place in range(0, len(whole), len(whole) // 50):
        assert unpack(whole[:place], CONFIG) is None
        flipped = bytearray(whole)
        flipped[place] ^= 1
        assert unpack(bytes(flipped), CONFIG) is None


def test_another_configuration_or_other_code_makes_it_worthless(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(Snapshot(Judge.start(CONFIG), {"evidence": 0, "scores": 0}))
    assert unpack(packed, CONFIG) is not None
    assert unpack(packed, CONFIG.replace(alpha=0.02)) is None
    monkeypatch.setattr(snapshot, "_code", lambda: "other")
    assert unpack(packed, CONFIG) is None


def test_an_array_of_another_shape_makes_it_worthless() -> None:
    packed = pack(Snapshot(Judge.start(CONFIG), {"evidence": 0, "scores": 0}))
    table = pa.ipc.open_file(pa.BufferReader(packed[32:])).read_all()
    shapes = table["shape"].to_pylist()
    shapes[0] = [*shapes[0], 1]
    changed = table.set_column(1, "shape", pa.array(shapes, pa.list_(pa.int64())))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, changed.schema) as writer:
        writer.write_table(changed)
    changed_bytes = sink.getvalue().to_pybytes()
    assert unpack(hashlib.sha256(changed_bytes).digest() + changed_bytes, CONFIG) is None


# --- beside the evidence ------------------------------------------------------------------------------------------------------

FIRST = Decision(action="set_weight", verdict="inconclusive", reason="started", message="", weight_percent=5, at=NOW)
STATUS = RolloutStatus(
    id="r",
    name="m",
    candidate="m-2",
    stable="m-1",
    config=CONFIG,
    weight_percent=5,
    started_at=NOW,
    step_started_at=NOW,
    decisions=(FIRST,),
    weight_applied_at=NOW,
)


class CountingStorage(LocalStorage):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_read = 0

    def read(self, key: str) -> Blob | None:
        self.num_read += key.endswith(".parquet")
        return super().read(key)


def records(number: int) -> list[RequestRecord]:
    one = RequestRecord(request_id="", revision="m-1", role="stable", bucket=0.5, outcome="ok", status=200, ttft_s=0.3,
                        duration_s=1, num_output_chunks=1, at=NOW)  # fmt: skip
    return [
        one.replace(request_id=f"{number}-{k}", bucket=k / 10, ttft_s=0.2 + k / 50, revision=f"m-{1 + k % 2}",
                    role=("stable", "canary")[k % 2], outcome="empty" if (number + k) % 9 == 0 else "ok")
        for k in range(10)
    ]  # fmt: skip


def filled(storage: LocalStorage, num_files: int, saved_at: int | None) -> EvidenceStore:
    store = EvidenceStore(storage, STATUS)
    for number in range(num_files):
        store.add(records(number))
        if number % 7 == 0:
            store.add_scores([PairedScore(item=str(number), stable=1, canary=0.5, at=NOW)])
        store.look(STATUS, NOW + timedelta(seconds=number))
        store.flush()
        if number + 1 == saved_at:
            store.save()
    return store


def test_a_restart_reads_what_came_after_the_snapshot_and_what_may_be_told_again(tmp_path: Path) -> None:
    storage = CountingStorage(tmp_path / "storage")
    whole = filled(storage, 120, saved_at=115)
    storage.num_read = 0
    again = EvidenceStore(storage, STATUS)
    assert bits(again._judge) == bits(whole._judge)
    assert storage.num_read <= RECENT_FILES + 5 + 4 + 18  # of evidence, to see that it fits, of scores
    assert again.look(STATUS, NOW) == whole.look(STATUS, NOW)
    again.add([*records(119), *records(100)])
    assert again.look(STATUS, NOW).look == 120  # nothing new was told
    (tmp_path / "storage/rollouts/m/r/judge.arrow").unlink()
    assert bits(EvidenceStore(storage, STATUS)._judge) == bits(whole._judge)


def test_a_replicas_death_in_the_snapshot_is_not_counted_when_told_again_and_older_files_have_no_such_column(
    storage: LocalStorage,
) -> None:
    store = filled(storage, 3, saved_at=None)
    path = storage.root / "rollouts/m/r/evidence-000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["replica"]), path)
    death = records(9)[1].replace(replica="one", outcome="unavailable")
    store.add([death])
    store.look(STATUS, NOW)
    store.flush()
    store.save()
    again = EvidenceStore(storage, STATUS)
    again.add([death.replace(request_id="another", at=NOW + timedelta(seconds=9))])
    assert again.look(STATUS, NOW).look == 4


def test_before_all_is_written_no_snapshot_is(storage: LocalStorage) -> None:
    store = filled(storage, 2, saved_at=None)
    store.add(records(3))
    store.look(STATUS, NOW)
    store.save()
    assert storage.read("rollouts/m/r/judge.arrow") is None


@pytest.mark.parametrize("harm", ["evidence lost", "evidence written anew", "a snapshot of before"])
def test_a_snapshot_that_does_not_fit_its_evidence_is_passed_over(storage: LocalStorage, harm: str) -> None:
    filled(storage, 6, saved_at=4)
    old = storage.read("rollouts/m/r/judge.arrow")
    assert old is not None
    where = storage.root / "rollouts/m/r"
    match harm:
        case "evidence lost":
            (where / "evidence-000004.parquet").unlink()
        case "evidence written anew":
            (where / "evidence-000004.parquet").write_bytes((where / "evidence-000006.parquet").read_bytes())
            (where / "evidence-000006.parquet").unlink()
        case _:
            (where / "evidence-000005.parquet").write_bytes((where / "evidence-000003.parquet").read_bytes())
    with_it = EvidenceStore(storage, STATUS)
    (where / "judge.arrow").unlink()
    assert bits(with_it._judge) == bits(EvidenceStore(storage, STATUS)._judge)


def test_steps_and_effects_of_their_own_are_kept_too() -> None:
    config = CONFIG.replace(steps=(StepConfig(weight_percent=1, error_effect_percent=7), StepConfig(weight_percent=9)))
    judge = fold(Judge.start(config), [Look(1, 1, NOW, False, tuple(records(1)))])
    restored = unpack(pack(Snapshot(judge, {"evidence": 1, "scores": 0})), config)
    assert restored is not None
    assert bits(restored.judge) == bits(judge)
