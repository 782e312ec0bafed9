"""The report as one HTML page that holds all it needs and runs no script. Whatever comes from documents is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from pipelines import pages
from pipelines.data.report import plots
from pipelines.data.report.clean import clean, summary
from pipelines.data.report.comprehensive import comprehensive
from pipelines.data.report.consistent import consistent
from pipelines.data.report.figures import Report
from pipelines.data.report.first import BOUNDS, findings
from pipelines.pages import write_report

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5f5f5f; --line: #d4d4d4; --ground: #fff; --box: #f5f5f3;
  --k0: #2f6fb3; --k1: #8a8a8a; --k2: #e09f00; --k3: #7a5ea8; --k4: #1b8a8a; --k5: #c2446e; --k6: #9b5b2e; --k7: #6d8c2f;
  --k8: #3a3a3a;
  --bad: #a40000; --good: #1a6b1a; --warn: #8a5a00; --out: #fbd9d9; --in: #d5efd5 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --soft: #a3a3a0; --line: #444; --ground: #161616; --box: #222;
  --k0: #6aa9ea; --k1: #9a9a9a; --k2: #f0b73a; --k3: #b39ae0; --k4: #4fc3c3; --k5: #ee7ba0; --k6: #cf8f5e; --k7: #a9c95f;
  --k8: #d8d8d8;
  --bad: #ff8080; --good: #7fd07f; --warn: #e8b85a; --out: #5a2424; --in: #1f4a24 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--ground) }
h2 { margin-top: 3rem; border-bottom: 2px solid #e8c33b } h3 { margin: 2rem 0 .2rem } p { margin: .3rem 0 .6rem; max-width: 46rem }
nav a { margin-right: 1rem } a { color: var(--k0) } small, .note { color: var(--soft) } .note { font-size: .9em }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; overflow-wrap: anywhere }
td:first-child { min-width: 9rem } small { overflow-wrap: anywhere }
tr + tr td { border-top: 1px solid var(--line) } td.n, th.n { text-align: right; white-space: nowrap }
svg { display: block; width: 100%; max-width: 720px; height: auto; margin: .4rem 0 1rem; font: 12.5px system-ui, sans-serif }
svg text { fill: var(--ink) } svg .tick { fill: var(--soft) } .axis { stroke: var(--line) }
.mark { stroke: var(--bad); stroke-width: 2 } .whisker { stroke: var(--ink); stroke-width: 1.5 }
.k0 { fill: var(--k0) } .k1 { fill: var(--k1) } .k2 { fill: var(--k2) } .k3 { fill: var(--k3) }
.k4 { fill: var(--k4) } .k5 { fill: var(--k5) } .k6 { fill: var(--k6) } .k7 { fill: var(--k7) }
.k8 { fill: var(--k8) }
.no { color: var(--bad); font-weight: bold } td span { white-space: nowrap }
.yes { color: var(--good) } .judge { color: var(--warn) }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--box); padding: .5rem; margin: .2rem 0 .8rem }
pre code { font-size: .8em; border: 1px solid var(--soft); border-radius: 3px; padding: 0 .15em }
del { background: var(--out); text-decoration-color: var(--bad) } ins { background: var(--in); text-decoration: none }
details { margin: .3rem 0 } summary { cursor: pointer } .pair { display: grid; gap: 0 1rem; margin-bottom: .6rem;
  grid-template-columns: 1fr 1fr } @media (max-width: 40rem) { .pair { grid-template-columns: 1fr } }
.pair > div:first-child { grid-column: 1 / -1; overflow-wrap: anywhere }
"""
BEHIND = {
    "no document": "readable",
    "quality": "of quality",
    "language": "in the languages",
    "evaluation sets": "not in evaluation sets",
    "personal data": "without refused values",
    "duplicates": "without duplicates",
    "repeated text": "with text of their own",
    "forgotten": "not forgotten",
}
"""What documents are behind each kind of reasons."""


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write the page and the figures as JSON below the folder.

    Raises:
        ConfigError: it cannot be written to.
    """
    return write_report(folder, f"dataset-{report.version}", page(report), report)


def page(report: Report) -> str:
    """The whole page."""
    return pages.page(f"Dataset {escape(report.version)}", STYLE, _parts(report))


def _parts(report: Report) -> Iterator[str]:
    yield from _first(report)
    for name, part in (("Clean", clean), ("Comprehensive", comprehensive), ("Consistent", consistent)):
        yield f'<h2 id="{name.lower()}">{name}</h2>'
        yield from part(report)


def _first(report: Report) -> Iterator[str]:
    made = f"made {report.made_at:%Y-%m-%d %H:%M:%S}, digest {escape(report.digest)}"
    yield f"<p>{summary(report)}<br><small>{made}</small>"
    names = ("clean", "comprehensive", "consistent", "checks")
    yield f"<nav>{''.join(f'<a href=#{name}>{name}</a>' for name in names)}</nav>"
    left = [plots.Bar("documents in", report.num_documents, f"{report.num_documents:,}", tone="k1")]
    left += [
        plots.Bar(
            BEHIND[step.name],
            step.num_left,
            f"{step.num_left:,} (−{step.num_out:,})",
        )
        for step in report.steps
    ]
    yield "<h3>From documents in to documents kept</h3>"
    yield '<p class="note">Left behind each kind of reasons, in the order in which documents are judged; in brackets what went.'
    yield plots.bars("documents left behind each kind of reasons", left)
    yield '<h3 id="first">Look at first</h3>'
    told = [
        f'<li{" class=no" if found.is_failure else ""}>{escape(found.text)} <a href="#{found.where}">there</a>'
        for found in findings(report)
    ]
    yield f"<ul>{''.join(told)}</ul>" if told else "<p>Nothing stands out."
    yield f'<p class="note">{escape(BOUNDS)}'
