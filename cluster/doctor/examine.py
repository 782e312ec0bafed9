"""All checks at once, each group in a thread with a bound: the doctor never hangs, whatever the patient does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

from cluster.doctor import environment, kubernetes, machine, ray_cluster, secrets, storage
from cluster.doctor.finding import Finding
from cluster.storage_config import StorageConfig

BOUND_S = 20.0
"""For all groups together. Longer than each one's own limits, which have better messages."""

Group = tuple[str, Callable[[], Sequence[Finding]]]


def groups(place: StorageConfig | None, keys: Sequence[Path], gateway_port: int) -> list[Group]:
    """What to look at, for the storage, key files and port that a recipe names."""
    return [
        ("machine", partial(machine.checks, gateway_port)),
        ("environment", environment.checks),
        ("cluster", ray_cluster.checks),
        ("storage", partial(storage.checks, place)),
        ("secrets", partial(secrets.checks, keys)),
        ("kubernetes", kubernetes.checks),
    ]


def examine(asked: Sequence[Group], bound_s: float = BOUND_S) -> list[Finding]:
    """Everything that the groups say, in their order."""
    answers: dict[str, Sequence[Finding]] = {}

    def run(name: str, look: Callable[[], Sequence[Finding]]) -> None:
        try:
            answers[name] = look()
        except Exception as error:  # one broken check must not hide what the others found
            found = f"the check itself failed ({type(error).__name__}: {error})"
            answers[name] = [Finding(check=name, state="failed", found=found, remedy="tell the developers of serinus")]

    threads = [threading.Thread(target=run, args=group, daemon=True) for group in asked]
    for thread in threads:
        thread.start()
    deadline = monotonic() + bound_s
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    told = ((name, answers.get(name)) for name, _ in asked)
    return [finding for name, said in told for finding in ([_silent(name, bound_s)] if said is None else said)]


def _silent(name: str, bound_s: float) -> Finding:
    found = f"no answer within {bound_s:g} s"
    return Finding(
        check=name, state="failed", found=found, remedy="see whether network and disks answer, and try again"
    )
