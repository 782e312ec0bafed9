"""The report as one HTML page that holds all it needs and runs no script. Whatever comes from documents is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from cluster.errors import ConfigError
from pipelines.data.report import Check, Dropped, Report, Share

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #e8c33b } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2rem .6rem .2rem 0; vertical-align: top } td.n, th.n { text-align: right; white-space: nowrap }
svg { display: block } .bar { fill: #e8c33b } .out { fill: #d9d9d9 }
.no { color: #a40000; font-weight: bold } .yes { color: #1a6b1a }
pre { white-space: pre-wrap; background: #f6f6f6; padding: .5rem; margin: .2rem 0 1rem } small { color: #666 }
"""
WIDTH = 240


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write the page and the figures as JSON below the folder.

    Raises:
        ConfigError: it cannot be written to.
    """
    paths = folder / f"dataset-{report.version}.html", folder / f"dataset-{report.version}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(page(report), encoding="utf-8")
        paths[1].write_text(report.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        found = f"cannot be written to: {error.strerror}"
        raise ConfigError(f"--out: {folder}", found, "name a folder that you may write to") from None
    return paths


def page(report: Report) -> str:
    """The whole page."""
    title = f"Dataset {report.version}"
    return "".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width"><style>',
            STYLE,
            f"</style><h1>{escape(title)}</h1>",
            f"<p>{_summary(report)}<br><small>made {report.made_at:%Y-%m-%d %H:%M:%S}, digest {escape(report.digest)}</small>",
            "<h2>Clean</h2>",
            *_clean(report),
            "<h2>Comprehensive</h2>",
            *_comprehensive(report),
            "<h2>Consistent</h2>",
            _table(("", "", "found"), map(_check, report.checks)),
            "</html>\n",
        )
    )


def _summary(report: Report) -> str:
    kept = report.num_train + report.num_heldout
    return (
        f"{report.num_documents:,} documents in, {kept:,} kept ({report.num_train:,} to train, {report.num_heldout:,} held out); "
        f"{report.num_characters_in:,} characters in, {report.num_characters_kept:,} kept"
    )


def _clean(report: Report) -> Iterator[str]:
    yield "<h3>Rewritten by</h3>" + _counts(report.num_changed_by_rule, report.num_documents)
    if report.num_protected_by_kind:
        total = sum(report.num_protected_by_kind.values())
        yield "<h3>Protected values</h3>" + _counts(report.num_protected_by_kind, total)
    yield "<h3>Excluded as</h3>" + _counts({d.reason: d.num for d in report.dropped}, report.num_documents)
    yield from map(_samples, report.dropped)


def _samples(dropped: Dropped) -> str:
    shown = "".join(
        f"<div>{escape(sample.id)} <small>{escape(sample.detail)}</small></div><pre>{escape(sample.text) or '(no text)'}</pre>"
        for sample in dropped.samples
    )
    return f"<details><summary>{escape(dropped.reason)}: samples</summary>{shown}</details>"


def _comprehensive(report: Report) -> Iterator[str]:
    yield "<h3>Languages</h3>" + _shares(report.languages)
    if report.missing_languages:
        yield f'<p class="no">asked for, and none kept: {escape(", ".join(report.missing_languages))}</p>'
    yield "<h3>Sources</h3>" + _shares(report.sources)
    yield "<h3>Lengths of the kept, in characters</h3>" + _shares(report.lengths)


def _counts(counts: Mapping[str, int], total: int) -> str:
    rows = ((escape(name), _number(num), _bar(num, 0, max(total, 1))) for name, num in counts.items())
    return _table(("", "documents", ""), rows) if counts else "<p>none</p>"


def _shares(shares: Sequence[Share]) -> str:
    most = max((share.num_in for share in shares), default=1)
    rows = (
        (
            escape(share.name),
            _number(share.num_in),
            _number(share.num_kept),
            _number(share.num_characters_kept),
            _bar(share.num_kept, share.num_in - share.num_kept, max(most, 1)),
        )
        for share in shares
    )
    return _table(("", "in", "kept", "characters kept", ""), rows) if shares else "<p>none</p>"


def _check(check: Check) -> tuple[str, ...]:
    mark = {True: '<span class="yes">holds</span>', False: '<span class="no">DOES NOT HOLD</span>', None: "to judge"}
    return escape(check.what), mark[check.ok], escape(check.found)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th{_kind(name)}>{name}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{_kind(name)}>{cell}</td>" for name, cell in zip(names, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _kind(name: str) -> str:
    return ' class="n"' if name in ("documents", "in", "kept", "characters kept") else ""


def _number(value: int) -> str:
    return f"{value:,}"


def _bar(num: int, rest: int, most: int) -> str:
    """What was kept, and behind it what was not."""
    kept, out = WIDTH * num / most, WIDTH * rest / most
    return (
        f'<svg width="{WIDTH}" height="14" role="img" aria-label="{num} of {most}">'
        f'<rect class="bar" width="{kept:.1f}" height="14"/>'
        f'<rect class="out" x="{kept:.1f}" width="{out:.1f}" height="14"/></svg>'
    )
