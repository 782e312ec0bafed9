"""Which ranks a run waits for in vain, and where they stand. Pure: what was heard of them and the time passed in, a finding out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

TRAINING = "training"
"""The phase in which ranks meet several times a second or, at the least, a few times a minute."""

ALONE = 3.0
"""Times longer may another phase stand still: one rank exports a model or reads one from S3, and begins no collective meanwhile. At
the default that is half an hour, after which torch's own collectives give up, and name nobody."""

SILENCE = 0.5
"""Of the timeout: a rank whose thread says nothing for so long is no slow one, whatever its step may take."""

MAX_SILENCE_S = 300.0
"""Ray Train gives up ranks that do not answer it after ten minutes, without a word on where they stand: be there before it."""

MAX_TOLD = 4
"""Ranks that are described one by one: where all of hundreds hang, it is the network."""


Process = tuple[str, int, float]
"""Its node, its id there, and when it began."""


class Beat(NamedTuple):
    """What a rank says of itself."""

    phase: str
    step: int
    """Optimizer steps done."""
    collectives: int
    """Begun by this process, over all groups it is in. Ranks go through the same program, so the one with fewer is behind."""
    forwards: int
    """Passes through the model begun by this process. Ranks may differ in them."""
    pid: int
    started_at: int
    """Of the process, in clock ticks from its machine's start; with it `pid` is nobody else's."""
    node_id: str
    node_ip: str
    stack: str = ""
    """Of the thread that trains, as the rank's own other thread sees it, once it stands still."""

    @property
    def place(self) -> tuple[str, int, int, int]:
        """It is the same while the rank gets no further."""
        return self.phase, self.step, self.collectives, self.forwards

    @property
    def process(self) -> Process:
        """Nobody else's in the cluster: pods number their processes alike."""
        return self.node_id, self.pid, self.started_at


class Heard(NamedTuple):
    """Of a rank, as of now."""

    beat: Beat
    """Its last one."""
    silent_s: float
    """Since then."""
    still_s: float
    """Since it was first heard of at this place."""


class Hang(NamedTuple):
    """The ranks that others wait for."""

    ranks: tuple[int, ...]
    still_s: float
    """Since any rank got further."""
    silent: bool
    """Not even their heartbeats come."""


def find_hang(heard: Mapping[int, Heard], world_size: int, timeout_s: float, in_lockstep: bool = True) -> Hang | None:
    """The ranks that hang, or None while the run may well go on.

    Args:
        heard: of each rank that has begun and has not ended. While some have not, Ray Train looks after the group's start and end.
        timeout_s: `train.hang_timeout_s`.
        in_lockstep: all ranks begin the same collectives; stages of a pipeline do not.
    """
    if len(heard) < world_size:
        return None
    still_s = min(one.still_s for one in heard.values())
    bearable_s = min(SILENCE * timeout_s, MAX_SILENCE_S)
    silent = tuple(sorted(rank for rank, one in heard.items() if one.silent_s >= bearable_s))
    if silent and still_s >= bearable_s:
        return Hang(silent, still_s, silent=True)
    behind = _behind(heard, in_lockstep)
    if still_s < max(timeout_s * (1 if heard[rank].beat.phase == TRAINING else ALONE) for rank in behind):
        return None
    return Hang(behind, still_s, silent=False)


def _behind(heard: Mapping[int, Heard], in_lockstep: bool) -> tuple[int, ...]:
    """Those that have come least far: the others wait for them."""

    def reached(beat: Beat) -> tuple[int, int]:
        return beat.step, beat.collectives if in_lockstep else 0

    least = min(reached(one.beat) for one in heard.values())
    return tuple(sorted(rank for rank, one in heard.items() if reached(one.beat) == least))


class Seen(NamedTuple):
    """What was found of a rank on its node."""

    state: str
    """Of the process, as the kernel calls it: running, sleeping, stopped, disk-sleep, ..."""
    stack: str
    """Of the thread that trains, innermost call first; empty where nobody could read it."""
    unread: str = ""
    """Why not."""


def told(hang: Hang, heard: Mapping[int, Heard], seen: Mapping[int, Seen]) -> str:
    """One line: who hangs, where and since when."""
    ranks = "; ".join(_who(rank, heard[rank], seen.get(rank), hang.silent) for rank in hang.ranks[:MAX_TOLD])
    if more := hang.ranks[MAX_TOLD:]:
        ranks += f"; and {len(more)} more ({_listed(more)})"
    others = len(heard) - len(hang.ranks)
    if not others:
        waits = (
            " (no rank is behind another: it may be the network between them, or a device)" if len(heard) > 1 else ""
        )
    else:
        waits = f"; the other {others} wait{'s' if others == 1 else ''}"
    return f"no rank got further for {hang.still_s:.0f} s: {ranks} hang{'' if len(hang.ranks) > 1 else 's'}{waits}"


def stacks(seen: Mapping[int, Seen]) -> list[str]:
    """Where the ranks stand, in lines; those that stand at the same place together."""
    alike: dict[tuple[str, str], list[int]] = {}
    for rank in sorted(seen):
        alike.setdefault((seen[rank].stack, "" if seen[rank].stack else seen[rank].unread), []).append(rank)
    found = []
    for (stack, unread), ranks in alike.items():
        named = f"rank{'s' if ranks[1:] else ''} {_listed(ranks)}"
        found.append(
            f"{named} {'are' if ranks[1:] else 'is'} in\n{stack}" if stack else f"no stack of {named}: {unread}"
        )
    return found


def _listed(ranks: Sequence[int]) -> str:
    """Ascending numbers, with rows of them by their ends: 0, 2 to 7."""
    rows: list[list[int]] = []
    for rank in ranks:
        if rows and rank == rows[-1][-1] + 1:
            rows[-1].append(rank)
        else:
            rows.append([rank])
    told = (f"{row[0]} to {row[-1]}" if row[2:] else ", ".join(map(str, row)) for row in rows)
    return ", ".join(told)


def _who(rank: int, heard: Heard, seen: Seen | None, is_silent: bool) -> str:
    beat = heard.beat
    state = f", {seen.state}" if seen else ""
    silent = f", silent for {heard.silent_s:.0f} s" if is_silent else ""
    where = f"in step {beat.step + 1}" if beat.phase == TRAINING else f"while {beat.phase}"
    at = f", at {innermost}" if seen and (innermost := seen.stack.strip().partition("\n")[0].strip()) else ""
    return f"rank {rank} (pid {beat.pid} on {beat.node_ip}{state}{silent}) {where}{at}"


def training_thread(dump: str) -> str:
    """The frames, innermost first, of the thread that trains in what `py-spy dump` prints; of all threads where none does."""
    threads = dump.split("\nThread ")[1:]
    ours = next((thread for thread in threads if "training/loop.py" in thread), None)
    if ours is None:
        return "\n".join(f"Thread {thread}" for thread in threads).strip()
    return ours.partition("\n")[2].rstrip()
