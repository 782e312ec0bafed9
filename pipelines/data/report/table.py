"""Tables of the report's page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NUMBERS = frozenset(
    (
        "documents",
        "of all",
        "in",
        "kept",
        "characters kept",
        "of kept",
        "characters",
        "kept in the end",
        "by this rule alone",
        "characters out, by it alone",
        "values",
        "asked",
        "found",
        "missing characters",
        "given",
        "accepted",
        "for review",
        "alpha",
        "units",
        "share",
    )
)


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th{_kind(name)}>{name}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{_kind(name)}>{cell}</td>" for name, cell in zip(names, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _kind(name: str) -> str:
    return ' class="n"' if name in NUMBERS else ""


def note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def percent(part: float, whole: float, digits: int = 1) -> str:
    return f"{100 * part / whole:.{digits}f} %" if whole else "none"
