"""What is told of workers that failed."""

from __future__ import annotations

from pipelines.training.failure import reason

TRACEBACK = """Traceback (most recent call last):
  File "slices.py", line 97, in verify
cluster.errors.InputError: step-4/1.bin: is not what was written
  -> remove the run's whole folder and run again
"""


def test_an_error_meant_for_people_is_told_whole_and_of_others_the_last_line() -> None:
    told = "step-4/1.bin: is not what was written -> remove the run's whole folder and run again"
    assert reason(TRACEBACK) == told
    assert reason("Traceback\n  File x\nValueError: no\n") == "ValueError: no"
    assert reason("") == "no reason given"
