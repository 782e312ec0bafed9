"""The part of a report's page about schemes that were tried: what each cost and saved, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from cluster.artifacts import SchemeAttempt, SchemeSearch
from cluster.artifacts.evaluation import told
from pipelines.evaluation.page_parts import mark, table

OUTCOMES = {"passed": "passed", "refused": "failed", "skipped": "other"}
"""Of an attempt -> the class that colours it."""


def schemes(search: SchemeSearch | None) -> Iterator[str]:
    """In the order they were tried, from the smallest upward."""
    if search is None:
        return
    ended = f"; {search.why}" if search.why else ""
    yield f"<p>From the smallest upward until one passes the gate: {escape(search.chosen) or 'none'} is taken{escape(ended)}.</p>"
    nums = sorted({rate.num_requests for one in search.attempts if one.speed for rate in one.speed.rates})
    rates = (f"tokens/s at {num}" for num in nums)
    names = ("scheme", "", "bytes", "of bfloat16's", "cache, bytes a token", *rates, "ttft, ms", "took, s")
    yield table(names, (_attempt(one, search.num_weight_bytes_before, nums) for one in search.attempts))
    if any(one.slices for one in search.attempts):
        yield "<h3>What each keeps of each slice</h3>"
        yield table(("slice", "scheme", "priority", "decided by", "old", "new", "kept", "outcome"), _slices(search))
    reasons = [f"<li>{escape(one.scheme)}: {escape(one.reason)}</li>" for one in search.attempts if one.reason]
    if reasons:
        yield f"<details><summary>Why schemes were refused or skipped</summary><ul>{''.join(reasons)}</ul></details>"


def _attempt(one: SchemeAttempt, num_bytes_before: int, nums: list[int]) -> tuple[str, ...]:
    outcome = f'<span class="{OUTCOMES[one.outcome]}">{one.outcome}</span>'
    if one.outcome == "skipped":
        return escape(one.scheme), outcome, *("" for _ in range(5 + len(nums)))
    rates = {rate.num_requests: told(rate.tokens_per_s) for rate in one.speed.rates} if one.speed else {}
    return (
        escape(one.scheme),
        outcome,
        f"{one.num_weight_bytes:,}",
        f"{one.num_weight_bytes / num_bytes_before:.0%}" if num_bytes_before else "",
        f"{one.num_cache_bytes_per_token:,}" if one.num_cache_bytes_per_token else "not known",
        *(rates.get(num, "") for num in nums),
        told(1000 * one.speed.ttft_s) if one.speed else "",
        f"{one.took_s:.0f}",
    )


def _slices(search: SchemeSearch) -> Iterator[tuple[str, ...]]:
    """A slice's schemes stand together."""
    found = [(slice, one.scheme) for one in search.attempts for slice in one.slices]
    for name, priority in dict.fromkeys((one.name, one.priority) for one, _ in found):
        for one, scheme in (pair for pair in found if (pair[0].name, pair[0].priority) == (name, priority)):
            what = f"{escape(name)} <small>{escape(one.metric)}</small>"
            figures = (f"{one.old:.4g}", f"{one.new:.4g}", f"{one.recovery_percent:.1f} %")
            yield what, escape(scheme), priority, escape(one.decided_by), *figures, mark(one.outcome)
