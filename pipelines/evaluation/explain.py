"""A gate's report in words: what was compared, what was found, and what more items would settle. No heavy imports."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.artifacts import Check, Finding, GateReport, OverlapCheck
from pipelines.evaluation.overlap import explained
from pipelines.evaluation.wording import LEAST_BOUND, both, identical, moved

MARKS = {"passed": "passed", "failed": "FAILED", "inconclusive": "INCONCLUSIVE"}


def finding(check: Check) -> str:
    """What a tested check established."""
    unit, on = unit_of(check.metric), f"on {check.num_items} items"
    match check.outcome:
        case "passed":
            return f"{_excluded(check.effect, unit)} is {_shown(check.effect)} {on} (p {p_text(check.p_effect)})"
        case "failed":
            return f"{_established(check.margin, unit)} is established {on} (p {p_text(check.p_margin_adjusted)})"
        case _:
            more = f"; about {check.num_items_if_as_found} items would settle it" if check.num_items_if_as_found else ""
            return f"{_excluded(check.effect, unit)} is not {_shown(check.effect)} {on}{more}"


def recovery(found_percent: float, wanted_percent: float) -> str:
    """What a check without a test found."""
    return f"keeps {found_percent:.1f} % and {wanted_percent:g} % are wanted (the figures as they are: no test)"


def lines(report: GateReport) -> Iterator[str]:
    """The whole report, for people."""
    config = report.config
    alpha, beta, power = (float(config[name]) for name in ("alpha", "beta", "power"))
    yield f"gate {report.key}: {report.outcome}, {'may be published' if report.passed else 'not to be published'}"
    yield from _rule(report, alpha, beta)
    for priority in ("must", "should", "could"):
        for found in (found for found in report.findings if found.priority == priority):
            yield ""
            yield f"{priority.upper():<7}{found.name}: {MARKS[found.outcome]} ({found.decided_by})"
            if isinstance(found, OverlapCheck):
                yield from (f"  {line}" for line in explained(found, report.clean_differences))
            elif isinstance(found, Check):
                yield from (f"  {line}" for line in _explained(found, alpha, beta, power))


def mark(check: Finding) -> str:
    """Outcome, priority and the rule that decided it in columns, for lists."""
    return f"{MARKS[check.outcome]:<13}{check.priority:<7}{check.decided_by:<19}"


def unit_of(metric: str) -> str:
    return "%" if metric == "perplexity" else "points"


def p_text(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _rule(report: GateReport, alpha: float, beta: float) -> Iterator[str]:
    num_musts = sum(check.priority == "must" for check in report.checks)
    if report.before:
        yield f"Told before the stage {report.before}: whatever came out of it, the gate could only say no."
        return
    yield "Both models answered the same items, and each is compared item by item."
    yield f"A model within all margins fails any of the {num_musts} musts with a chance of at most {alpha:g} (Holm);"
    yield f"one worse by an effect passes that must with a chance of at most {beta:g}. Neither: inconclusive."
    if report.outcome == "inconclusive":
        let = "lets it through all the same" if report.passed else "keeps it back: what a must asks for was not shown"
        yield f"An inconclusive must is no finding against the model. This recipe {let}."


def _explained(check: Check, alpha: float, beta: float, power: float) -> Iterator[str]:
    unit, num_items = unit_of(check.metric), check.num_items
    new, old = check.name.rsplit(": ", 1)[1].split(" vs ")
    (was, now), differ = both(check.old, check.new), check.num_different
    of_them = "" if not differ else ", of which all differ" if differ == num_items else f", of which {differ} differ"
    found = identical(num_items, differ) or f"{moved(check.harm, unit)} on {num_items} items{of_them}"
    yield f"{check.metric}: {old} {was}, {new} {now}: {found}"
    worst, best = (moved(bound, unit, LEAST_BOUND) for bound in (check.harm_high, check.harm_low))
    yield f"with {1 - beta:.0%} confidence at worst {worst}; with {1 - alpha:.0%} at best {best}"
    if not check.method:
        yield check.message.split(", ", 1)[1]
        return
    fails, passes = _established(check.margin, unit), f"{_excluded(check.effect, unit)} {_shown(check.effect)}"
    together = f"among all {check.priority}s {p_text(check.p_margin_adjusted)}"
    yield f"fails with {fails} established: p {p_text(check.p_margin)}, {together}"
    yield f"passes with {passes}: p {p_text(check.p_effect)}"
    yield f"test: {check.method}"
    if check.outcome == "inconclusive":
        yield from _settling(check, power)


def _settling(check: Check, power: float) -> Iterator[str]:
    if check.num_items_if_as_found:
        yield f"if the difference is as found, about {check.num_items_if_as_found} items settle it (in {power:.0%} of cases)"
    else:
        yield "if the difference is as found, it lies so near the limit that no number of items settles it"
    if check.num_items_if_equal:
        yield f"a model exactly as good as the old one passes on about {check.num_items_if_equal} items (in {power:.0%} of cases)"
    if check.num_items_if_equal and check.num_items_if_equal <= check.num_items:
        yield "it had enough items for that: it is unlucky, or really worse"


def _excluded(effect: float, unit: str) -> str:
    """What an effect asks to be excluded, or established where it asks for a gain."""
    if effect > 0:
        return f"a loss of {effect:g} {unit}"
    return f"a gain of {-effect:g} {unit}" if effect else "a gain"


def _shown(effect: float) -> str:
    return "excluded" if effect > 0 else "established"


def _established(margin: float, unit: str) -> str:
    if margin > 0:
        return f"a loss of more than {margin:g} {unit}"
    return f"a gain of less than {-margin:g} {unit}" if margin else "a loss"
