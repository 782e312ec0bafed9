"""A function in a process of its own: its answers, and every way in which there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from pipelines.data.apart import Apart, Ended, NotStarted
from tests.unit.pipelines.data import answers

HERE = f"{answers.__name__}:"
GIB = 1 << 30


@pytest.fixture
def apart() -> Any:
    made = list[Apart]()

    def make(name: str, cpu_s: float = 20) -> Apart:
        made.append(Apart(HERE + name, 4 * GIB, cpu_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_answers_come_one_after_the_other_from_one_process(apart: Any) -> None:
    asked = apart("length")
    assert [asked(b""), asked(b"abc", more=2), asked(bytes(3_000_000))] == [0, 5, 3_000_000]
    assert apart("large")(bytes(2_000_000)) == "x" * 2_000_000
    pids = apart("process")
    first = pids(b"")
    assert first == pids(b"") != os.getpid()
    pids.close()
    assert pids(b"") != first


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fails", "LookupError: no such thing$"),
        ("crashes", r"ended the process that read it \(SIGSEGV\); it had 4.3 GB of memory"),
        ("leaves", r"ended the process that read it \(exit code 3\)"),
        ("takes_all_memory", "needs more memory than it may have"),
    ],
)
def test_what_goes_wrong_there_is_told_and_the_next_one_is_answered(apart: Any, name: str, says: str) -> None:
    asked = apart(name)
    for content in (b"", bytes(1_000_000)):
        with pytest.raises(Ended, match=says):
            asked(content)


def test_what_cannot_be_had_on_this_machine_is_no_fault_of_the_file() -> None:
    with pytest.raises(NotStarted, match="No module named 'no_such_parser'"):
        Apart("no_such_parser:read", 4 * GIB, 20)(b"")


def test_who_is_killed_from_outside_says_nothing_of_the_file(apart: Any) -> None:
    with pytest.raises(NotStarted, match="was killed on "):
        apart("is_killed")(b"")


def test_what_fails_in_a_process_that_is_not_new_is_tried_in_a_new_one(apart: Any) -> None:
    """Memory that others left behind is no fault of the next one."""
    asked = apart("grows")
    assert [asked(b"") for _ in range(5)] == [1, 2, 3, 1, 2]


def test_what_takes_too_long_is_ended_by_the_processor_s_clock(apart: Any) -> None:
    asked = apart("never_ends", cpu_s=0.2)
    with pytest.raises(Ended, match=r"took more than 0\.2 s of processor time"):
        asked(b"")
    assert asked.used_cpu_s >= 0.2


def test_whoever_is_interrupted_does_not_get_the_answer_later(apart: Any) -> None:
    asked = apart("sleeps")
    here = threading.main_thread().ident
    assert here is not None
    threading.Timer(1.0, lambda: signal.pthread_kill(here, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        asked(b"")
    assert asked._process is None


def test_it_ends_with_the_one_that_started_it() -> None:
    code = (
        "import os; from pipelines.data.apart import Apart; "
        f"a = Apart('{HERE}process', {4 * GIB}, 20.0); print(a(b''), flush=True); os.kill(os.getpid(), 9)"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}") and not _is_zombie(pid):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}") or _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
