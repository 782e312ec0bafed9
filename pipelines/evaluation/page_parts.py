"""What the parts of a report's page are made of: tables, marks, digests. Text from outside is escaped by who gives it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from cluster.artifacts import Difference
from pipelines.evaluation.explain import MARKS
from pipelines.evaluation.report import RunReport
from pipelines.evaluation.wording import both, change

STATUSES = {
    "passed": "passed",
    "failed": "FAILED",
    "not_automatable": "not automatable",
    "no_evidence": "no evidence",
}
NUMBERS = frozenset(
    {
        "value",
        "95 % interval",
        "items",
        "old",
        "new",
        "difference",
        "differ",
        "parameters",
        "bytes",
        "cache, bytes a token",
        "tokens/s at 1",
        "tokens/s at 8",
        "tokens/s at 32",
        "ttft, ms",
        "prompt",
        "written",
        "kept",
        "of bfloat16's",
        "took, s",
        "adjusted p",
        "contaminated",
        "any run of 13 words",
        "too short",
        "all items",
        "the others",
        "base",
        "trained",
        "quantized",
    }
)
"""Columns of figures."""


def digest_of(digest: str) -> str:
    """Its beginning, the whole of it in its title."""
    return f'<code title="{escape(digest)}">{escape(digest[:12])}</code>' if digest else ""


def mark(status: str) -> str:
    """An outcome in its colour."""
    words = {**STATUSES, **MARKS}
    kind = status if status in MARKS else "other"
    return f'<span class="{kind}">{words[status]}</span>'


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of HTML under these names; columns of NUMBERS stand at the right."""
    kinds = [' class="n"' if name in NUMBERS else "" for name in names]
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True)) if any(names) else ""
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def differences(found: Iterable[Difference]) -> str:
    """Paired differences as a table."""
    return table(("task", "old", "new", "difference", "95 % interval", "items", "differ"), map(_difference, found))


def _difference(found: Difference) -> tuple[str, ...]:
    better = "" if found.higher_is_better else " (lower is better)"
    (old, new), (difference, interval) = both(found.old, found.new), change(found)
    differ = "" if found.num_different is None else f"{found.num_different:,}"
    what = f"{escape(found.task)} <small>{escape(found.metric)}{better}</small>"
    return what, old, new, difference, interval, f"{found.num_items:,}", differ


def digest_in(report: RunReport, role: str) -> str:
    """Of the artifact with that role in the report; empty where there is none."""
    return next((one.digest for one in report.evidence if one.role == role and one.kind != "file"), "")


def named(report: RunReport, role: str) -> str:
    """The same as the page shows digests."""
    return digest_of(digest_in(report, role))
