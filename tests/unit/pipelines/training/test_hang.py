"""Which ranks a run waits for in vain."""

from __future__ import annotations

import pytest

from pipelines.training.hang import TRAINING, Beat, Hang, Heard, Seen, find_hang, stacks, told, training_thread
from pipelines.training.watch import MAX_GAP_S, Places

TIMEOUT_S = 100.0


def beat(collectives: int = 7, step: int = 4, phase: str = TRAINING, pid: int = 1, forwards: int = 3) -> Beat:
    return Beat(phase, step, collectives, forwards, pid, 0.0, "node", "10.0.0.1")


def rank(silent_s: float, still_s: float, **fields: int | str) -> Heard:
    return Heard(beat(**fields), silent_s, still_s)  # type: ignore[arg-type]


def found(*ranks: Heard, world_size: int | None = None, in_lockstep: bool = True) -> Hang | None:
    return find_hang(dict(enumerate(ranks)), world_size or len(ranks), TIMEOUT_S, in_lockstep)


LOADING = "loading the model"


@pytest.mark.parametrize(
    ("ranks", "hung"),
    [
        pytest.param([rank(1, 99), rank(1, 99, collectives=6)], None, id="not for long enough yet"),
        pytest.param(
            [rank(1, 100), rank(1, 101, collectives=6)], (1,), id="begun a collective less: the other waits in it"
        ),
        pytest.param([rank(1, 1), rank(1, 900, collectives=6)], None, id="someone gets further"),
        pytest.param(
            [rank(1, 100, step=5, collectives=1), rank(1, 100, step=4, collectives=9)], (1,), id="a step behind"
        ),
        pytest.param([rank(1, 100), rank(1, 100)], (0, 1), id="nobody is behind"),
        pytest.param([rank(1, 55), rank(50, 55)], (1,), id="silent: stopped"),
        pytest.param([rank(1, 55), rank(49, 55)], None, id="not silent for long enough yet"),
        pytest.param([rank(60, 60, collectives=8), rank(1, 55)], (0,), id="a stopped rank is it, however far it came"),
        pytest.param([rank(60, 60), rank(60, 60)], (0, 1), id="all stopped"),
        pytest.param([rank(1, 299, phase=LOADING), rank(1, 299, phase=LOADING)], None, id="loading takes longer"),
        pytest.param([rank(1, 300, phase=LOADING), rank(1, 300, phase=LOADING)], (0, 1), id="but not for ever"),
        pytest.param(
            [rank(1, 120, phase="exporting", collectives=8), rank(1, 120)], (1,), id="it is in training, others are not"
        ),
    ],
)
def test_the_rank_that_the_others_wait_for_is_found(ranks: list[Heard], hung: tuple[int, ...] | None) -> None:
    hang = found(*ranks)
    assert (hang and hang.ranks) == hung


def test_the_groups_start_and_end_are_left_to_ray_train() -> None:
    assert found(rank(900, 900), world_size=2) is None


def test_stages_of_a_pipeline_are_compared_by_steps_alone() -> None:
    """They begin different numbers of collectives."""
    ranks = rank(1, 100, collectives=3), rank(1, 100, collectives=9)
    hang = found(*ranks, in_lockstep=False)
    assert hang == Hang((0, 1), 100, silent=False)


def test_a_long_timeout_lets_nobody_be_silent_for_longer_than_ray_train_bears() -> None:
    ranks = {0: rank(1, 310), 1: rank(310, 310)}
    hang = find_hang(ranks, 2, timeout_s=7_200)
    assert hang
    assert hang.ranks == (1,)


STACK = "    of_step (pipelines/training/batches.py:88)\n    prepared (pipelines/training/step.py:63)"


def test_the_one_that_hangs_is_named_with_its_place() -> None:
    heard = {0: rank(1, 12), 1: rank(12, 12, pid=77)}
    line = told(Hang((1,), 12.2, silent=True), heard, {1: Seen("stopped", STACK)})
    assert line == (
        "no rank got further for 12 s: rank 1 (pid 77 on 10.0.0.1, stopped, silent for 12 s) in step 5,"
        " at of_step (pipelines/training/batches.py:88) hangs; the other 1 waits"
    )


def test_where_nobody_is_behind_all_are_named_and_the_network_too() -> None:
    heard = {0: rank(1, 12, phase=LOADING), 1: rank(1, 12, pid=77, phase=LOADING)}
    line = told(Hang((0, 1), 12.2, silent=False), heard, {0: Seen("sleeping", "", "no")})
    assert line == (
        "no rank got further for 12 s: rank 0 (pid 1 on 10.0.0.1, sleeping) while loading the model; rank 1 (pid 77 on 10.0.0.1)"
        " while loading the model hang (no rank is behind another: it may be the network between them, or a device)"
    )


def test_of_hundreds_that_hang_a_few_are_described_and_equal_stacks_are_shown_once() -> None:
    heard = {number: rank(1, 12) for number in range(64)}
    line = told(Hang((0, 1, 2, 3, *range(5, 64)), 12, silent=False), heard, {})
    assert line.count("pid") == 4
    assert "; and 59 more (5 to 63) hang; the other 1 waits" in line
    seen = {number: Seen("running", STACK) for number in (0, 2, 3, 4, 6, 7)}
    assert stacks({**seen, 1: Seen("sleeping", "", "no py-spy"), 5: Seen("running", "elsewhere")}) == [
        f"ranks 0, 2 to 4, 6, 7 are in\n{STACK}",
        "no stack of rank 1: no py-spy",
        "rank 5 is in\nelsewhere",
    ]


DUMP = """Process 7: ray::RayTrainWorker
Python v3.11.7 (/usr/bin/python3.11)

Thread 7 (idle): "MainThread"
    main_loop (ray/_private/worker.py:1013)

Thread 9 (idle): "TrainingThread(worker)"
    of_step (pipelines/training/batches.py:88)
    worker (pipelines/training/loop.py:60)

Thread 11 (idle): "heartbeat"
    wait (threading.py:331)
"""


def test_of_a_processs_threads_the_one_that_trains_is_shown() -> None:
    frames = "    of_step (pipelines/training/batches.py:88)\n    worker (pipelines/training/loop.py:60)"
    assert training_thread(DUMP) == frames
    assert training_thread(DUMP.replace("training/loop", "other")).count("\nThread ") == 2


def test_times_are_those_of_who_listens_and_begin_anew_with_another_process() -> None:
    clock = iter([0.0, 0.0, 5.0, 7.0, 9.0, 10.0, 11.0, 12.0])
    places = Places(lambda: next(clock))
    places.heard(0, beat())
    places.heard(0, beat())
    assert places.places() == {0: Heard(beat(), 2.0, 7.0)}
    places.heard(0, beat(pid=2))
    assert places.places() == {0: Heard(beat(pid=2), 1.0, 1.0)}
    elsewhere = beat(pid=2)._replace(node_id="other")
    places.heard(0, elsewhere)
    assert places.places() == {0: Heard(elsewhere, 1.0, 1.0)}


def test_of_time_in_which_it_was_halted_itself_who_listens_knows_nothing() -> None:
    """As in a container that is paused, with its ranks."""
    clock = iter([0.0, 0.0, 2.0, 3602.0, 3603.0, 3604.0, 3605.0])
    places = Places(lambda: next(clock))
    places.heard(0, beat())
    assert places.places()[0].silent_s == 2
    assert places.places()[0].still_s == 2 + MAX_GAP_S
    places.heard(0, beat())
    assert places.places() == {0: Heard(beat(), 1.0, 4 + MAX_GAP_S)}
    places.ended(0)
    assert places.places() == {}
