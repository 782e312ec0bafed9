"""What cleaning the whole would take and give, judged by a sample. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.data.sample import Place

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for 95 % at 1 to 10 degrees of freedom; beyond them 2.1 is wide enough."""


class Range(NamedTuple):
    """An estimate, and between what it lies 19 times of 20 if the places were drawn at random and are many."""

    low: float
    middle: float
    high: float

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.middle * factor, self.high * factor)

    def plus(self, more: float) -> Range:
        return Range(self.low + more, self.middle + more, self.high + more)


class Estimate(NamedTuple):
    num_documents: Range
    num_kept: Range
    """Duplicates among them, which a sample cannot tell."""
    out_bytes: Range
    cpu_s: Range
    longest_s: float
    """Of the largest file that one worker reads: no number of nodes is faster."""


def estimate(places: Sequence[Place], num_bytes: int, hash_s_per_byte: float, longest_bytes: int) -> Estimate:
    """For `num_bytes` of input.

    Args:
        longest_bytes: of the largest part of the input that one worker reads.
    """
    cpu = scaled(places, [place.cpu_s for place in places], num_bytes)
    return Estimate(
        num_documents=scaled(places, [place.num_documents for place in places], num_bytes),
        num_kept=scaled(places, [place.num_kept for place in places], num_bytes),
        out_bytes=scaled(places, [place.out_bytes for place in places], num_bytes),
        cpu_s=cpu.plus(num_bytes * hash_s_per_byte),
        longest_s=cpu.middle * longest_bytes / max(num_bytes, 1),
    )


def scaled(places: Sequence[Place], values: Sequence[float], num_bytes: int) -> Range:
    """A total from places that were chosen in proportion to size (Hansen and Hurwitz 1943): the mean of what each has for a
    byte, times all bytes; its error from how much they differ. Of an input that was read whole, the sum."""
    read = sum(place.num_bytes for place in places)
    if read >= num_bytes:
        return Range(sum(values), sum(values), sum(values)).times(num_bytes / read)
    shares = [value / place.num_bytes for value, place in zip(values, places, strict=True) if place.num_bytes]
    n = len(shares)
    mean = sum(shares) / n
    if n < 2:
        return Range(0.0, mean * num_bytes, math.inf)
    deviation = math.sqrt(sum((share - mean) ** 2 for share in shares) / (n - 1))
    error = math.sqrt((1 - read / num_bytes) / n) * deviation  # nothing is uncertain about what was read
    t = T_95[n - 2] if n - 2 < len(T_95) else 2.1
    return Range(max(mean - t * error, 0.0), mean, mean + t * error).times(num_bytes)


def nodes_for(cpu_s: float, within_s: float, cpus_per_node: int) -> int:
    """Nodes on which so many CPU seconds are done in that time."""
    return max(1, math.ceil(cpu_s / within_s / cpus_per_node))


def duration_s(cpu_s: float, num_cpus: int, longest_s: float) -> float:
    """With so many CPUs."""
    return max(cpu_s / num_cpus, longest_s)
