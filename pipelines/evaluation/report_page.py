"""A run's report as one HTML page that holds all it needs, runs no script and asks no network. Text from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from cluster.artifacts import Check, Finding
from cluster.registry import Lineage
from pipelines import pages
from pipelines.evaluation import plots, report_costs
from pipelines.evaluation.figures import is_whole
from pipelines.evaluation.page_parts import STATUSES, differences, digest_in, digest_of, mark, named, table
from pipelines.evaluation.report import Evidence, ModelScore, RunReport
from pipelines.evaluation.report_items import Calibration, WorstItem
from pipelines.evaluation.report_schemes import schemes
from pipelines.evaluation.report_slices import contamination, recovery
from pipelines.pages import write_report

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #e8c33b } h3 { margin: 1.5rem 0 .3rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top } td.n, th.n { text-align: right; white-space: nowrap }
svg { display: block; width: 100%; max-width: 520px; height: auto; font: 12px system-ui, sans-serif } .tick { fill: #666 }
.whisker { stroke: #888; stroke-width: 3 } .axis { stroke: #ccc } .curve { fill: none; stroke: #b38f00; stroke-width: 2 }
.frame { fill: none; stroke: #ccc } .part { fill-opacity: .6 }
.m0 { fill: #777 } .m1 { fill: #2563a8 } .m2 { fill: #e0a800 }
.key .m1 { color: #2563a8 } .key .m2 { color: #e0a800 }
.failed { color: #a40000; font-weight: bold } .passed { color: #1a6b1a } .inconclusive { color: #8a5a00 } .other { color: #666 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .5rem; margin: .2rem 0 } small { color: #666 }
code { overflow-wrap: anywhere; font-size: .85em } ul { padding-left: 1.2rem } summary { cursor: pointer }
.figure { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 3rem; align-items: start }
.item { border-left: 3px solid #e8c33b; padding-left: .8rem; margin-bottom: 1.5rem }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .8rem; margin-bottom: 1rem }
"""


def write(report: RunReport, folder: Path) -> tuple[Path, Path]:
    """Write the page and the same as JSON below the folder.

    Raises:
        ConfigError: it cannot be written to.
    """
    gate = digest_in(report, "gate")[:8]
    name = (report.revision or (f"{report.name}-gate-{gate}" if gate else report.name)).replace("/", "-")
    return write_report(folder, f"report-{name}", page(report), report)


def page(report: RunReport) -> str:
    """The whole page."""
    title = escape(report.revision or (f"{report.name}: not published" if report.outcome else report.name))
    sections = (
        ("Verdict", _verdict(report)),
        ("Scores", _scores(report)),
        ("Paired differences", _differences(report)),
        ("What is kept, slice by slice", recovery(report)),
        ("Contamination", contamination(report)),
        ("Size and what quantizing kept", report_costs.sizes(report)),
        ("Schemes that were tried", schemes(report.search)),
        ("Calibration", _calibration(report)),
        ("Worst items", _worst(report)),
        ("Training", report_costs.training(report)),
        ("Node hours", report_costs.node_hours(report)),
        ("Compliance", _compliance(report)),
        ("Lineage", _lineage(report)),
        ("Evidence", _evidence(report)),
    )
    nothing = "<p>none on record</p>" if report.outcome or report.revision else ""
    return pages.page(title, STYLE, _written(sections, nothing))


def _written(sections: Iterable[tuple[str, Iterator[str]]], nothing: str) -> Iterator[str]:
    """With `nothing` for what is empty, or without it: an evaluation alone has no training to tell of."""
    for name, parts in sections:
        if text := "".join(parts) or nothing:
            yield f"<h2>{name}</h2>{text}"


def _verdict(report: RunReport) -> Iterator[str]:
    if not report.outcome:
        yield '<p class="other">judged by no gate</p>'
        return
    yield f"<p>Gate: {mark(report.outcome)}, {'published' if report.published else 'not published'}. {named(report, 'gate')}"
    if found := (*report.overlaps, *report.checks):
        yield table(("requirement", "priority", "decided by", "outcome", "adjusted p"), map(_check, found))
    if report.words:
        words = escape("\n".join(report.words))
        yield f"<details><summary>In words, with what more items would settle</summary><pre>{words}</pre></details>"


def _check(check: Finding) -> tuple[str, ...]:
    adjusted = check.p_margin_adjusted if isinstance(check, Check) else None
    p = "" if adjusted is None else f"{adjusted:.3g}"
    said = escape(check.message.removeprefix(f"{check.name}: "))
    return f"{escape(check.name)}<br><small>{said}</small>", check.priority, check.decided_by, mark(check.outcome), p


def _scores(report: RunReport) -> Iterator[str]:
    if report.notes:
        yield f"<ul>{''.join(f'<li>{escape(note)}' for note in report.notes)}</ul>"
    for task in dict.fromkeys(one.score.task for one in report.scores):
        of_task = [one for one in report.scores if one.score.task == task]
        yield f"<h3>{escape(task)}</h3>"
        for metric in dict.fromkeys(one.score.metric for one in of_task):
            yield from _metric([one for one in of_task if one.score.metric == metric])


def _metric(rows: Sequence[ModelScore]) -> Iterator[str]:
    """One metric of one task, of all models."""
    first = rows[0].score
    if is_whole(first.metric):
        values = ((escape(r.model), f"{r.score.value:.4g}") for r in rows)
        yield f"<p><b>{escape(first.metric)}</b> <small>of all {first.num_items:,} items at once</small>"
        yield table(("model", "value"), values)
        return
    better = "higher" if first.higher_is_better else "lower"
    yield f"<p><b>{escape(first.metric)}</b> <small>{better} is better; 95 % intervals over {first.num_items:,} items</small>"
    drawn = [plots.Interval(r.model, r.score.value, r.score.ci_low, r.score.ci_high) for r in rows]
    plot = plots.intervals(f"{first.task}, {first.metric}", drawn)
    cells = ((escape(r.model), f"{r.score.value:.4g}", f"{r.score.ci_low:.4g} to {r.score.ci_high:.4g}") for r in rows)
    told = table(("model", "value", "95 % interval"), cells)
    yield f'<div class="figure">{plot}{told}</div>'


def _differences(report: RunReport) -> Iterator[str]:
    for name, found in report.differences.items():
        yield f"<h3>{escape(name)}</h3>{differences(found)}"


def _worst(report: RunReport) -> Iterator[str]:
    if report.worst:
        yield "<p><small>Where the last model lost most against the one before it.</small>"
    for task in dict.fromkeys(item.task for item in report.worst):
        yield f"<h3>{escape(task)}</h3>" + "".join(_item(item) for item in report.worst if item.task == task)


def _item(item: WorstItem) -> str:
    answers = "".join(
        f"<div><b>{escape(answer.model)}</b> <small>score {answer.score:.4g}</small>"
        f"<pre>{escape(answer.output) or '(likelihood only)'}</pre></div>"
        for answer in item.answers
    )
    prompt = f"<pre>{escape(item.prompt)}</pre>" if item.prompt else ""
    wanted = f"<small>wanted</small><pre>{escape(item.wanted)}</pre>" if item.wanted else ""
    head = f"<div><code>{escape(item.id)}</code> <small>lost {item.lost:.4g}</small></div>"
    return f'<div class="item">{head}{prompt}{wanted}<div class="side">{answers}</div></div>'


def _calibration(report: RunReport) -> Iterator[str]:
    if report.calibrations:
        yield "<p><small>How often a choice is right against the probability that the model gives it among the choices; on the"
        yield " diagonal the two are the same. The error is their mean distance, over ten equal intervals.</small>"
    for task in dict.fromkeys(one.task for one in report.calibrations):
        found = [one for one in report.calibrations if one.task == task]
        yield f'<h3>{escape(task)}</h3><div class="side">{"".join(map(_reliability, found))}</div>'


def _reliability(found: Calibration) -> str:
    num_items = sum(one.num_items for one in found.bins)
    said = f"<b>{escape(found.model)}</b> <small>error {found.error:.3f} on {num_items:,} items</small>"
    points = [(one.confidence, one.accuracy, one.num_items / num_items) for one in found.bins]
    return f"<div>{said}{plots.reliability(f'{found.task}, {found.model}', points)}</div>"


def _compliance(report: RunReport) -> Iterator[str]:
    for name in dict.fromkeys(row.register_name for row in report.compliance):
        rows = [row for row in report.compliance if row.register_name == name]
        counts = ((words, sum(row.status == status for row in rows)) for status, words in STATUSES.items())
        yield f"<h3>{escape(name)}</h3><p>{', '.join(f'{count} {words}' for words, count in counts)}"
        cells = (
            (
                escape(row.id),
                f"{escape(row.text)}<br><small>{escape(row.found)}</small> {digest_of(row.digest)}",
                mark(row.status),
            )
            for row in rows
        )
        listed = table(("indicator", "", "status"), cells)
        yield f"<details{' open' if len(rows) <= 20 else ''}><summary>{len(rows)} indicators</summary>{listed}</details>"


def _lineage(report: RunReport) -> Iterator[str]:
    if report.lineage:
        yield f"<ul>{_node(report.lineage)}</ul>"


def _node(node: Lineage) -> str:
    under = f"<ul>{''.join(map(_node, node.children))}</ul>" if node.children else ""
    above = " <small>(see above)</small>" if node.repeated else ""
    role = f"{escape(node.role)}: " if node.role else ""
    text = f"{role}{escape(node.kind)} {escape(node.key)} {digest_of(node.digest)}{above}<br><small>{escape(node.summary)}</small>"
    return f"<li>{text}{under}</li>"


def _evidence(report: RunReport) -> Iterator[str]:
    rows = (
        (escape(e.role), f"<code>{escape(e.path)}</code>{_through(e)}", f"<code>{escape(e.digest)}</code>")
        for e in report.evidence
    )
    yield table(("role", "file", "digest"), rows)


def _through(evidence: Evidence) -> str:
    """What computed with a folder's weights; manifests say what they are in the lineage."""
    return f"<br><small>{escape(evidence.summary)}</small>" if evidence.kind == "folder" and evidence.summary else ""
