"""A Hugging Face model card (README.md with YAML front matter) from a revision's manifests. No heavy imports.

The fields of the front matter: https://huggingface.co/docs/hub/model-cards. Licence, language and purpose are not on record, so
the card leaves them to people rather than guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from cluster.artifacts import Ledger
from pipelines.bill import Bill, figure
from pipelines.evaluation.report import RunReport


def card(report: RunReport) -> str:
    """The README.md."""
    front = yaml.safe_dump(_front(report), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n".join(_body(report)) + "\n"


def _front(report: RunReport) -> dict[str, Any]:
    served = [one.score for one in report.scores if one.model == "quantized"]
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": score.task, "type": re.sub(r"\W+", "-", score.task)},
            "metrics": [{"type": score.metric, "value": score.value, "verified": False}],
        }
        for score in served
    ]
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["serinus"]}
    return front | ({"model-index": [{"name": report.revision, "results": results}]} if results else {})


def _body(report: RunReport) -> Iterator[str]:
    yield f"# {_plain(report.revision)}"
    yield from (
        "",
        f"Published by serinus under the name {_plain(report.name)}. Licence, languages and purpose are not on record here.",
    )
    verdict = f"its gate says: {report.outcome}" if report.outcome else "no gate has judged it"
    yield from ("", "## Evaluation", "", f"{verdict[0].upper()}{verdict[1:]}.")
    yield from _table(
        ("task", "metric", "model", "value", "95 % interval", "items"),
        (
            (s.task, s.metric, one.model, f"{s.value:.4g}", f"{s.ci_low:.4g} to {s.ci_high:.4g}", f"{s.num_items}")
            for one in report.scores
            for s in (one.score,)
        ),
    )
    yield from ("", "## Size")
    yield from _table(
        ("model", "scheme", "parameters", "bytes"),
        ((s.model, s.scheme or "-", f"{s.num_parameters:,}", f"{s.num_weight_bytes:,}") for s in report.sizes),
    )
    if timed := [(s.model, s.speed) for s in report.sizes if s.speed]:
        yield from ("", "In the engine that evaluated it, on its machine:")
        yield from _table(("model", "speed"), ((model, speed.summary) for model, speed in timed))
    if report.ledger:
        yield from _training(report.ledger)
    if report.spending and report.spending.bill:
        yield from _bill(report.spending.bill)
    yield from ("", "## Provenance", "", "Digests of the manifests that every figure above was read from:")
    yield from _table(("role", "file", "digest"), ((e.role, e.path, e.digest) for e in report.evidence))


def _training(ledger: Ledger) -> Iterator[str]:
    yield from ("", "## Training", "", f"{ledger.num_tokens:,} tokens, {ledger.flops:.3g} floating-point operations ")
    yield f"({_plain(ledger.flops_basis)}), {ledger.trained_s:g} s in steps on {ledger.num_devices} x {_plain(ledger.device)}."
    if ledger.energy_wh is not None:
        yield f"Energy: {ledger.energy_wh:g} Wh ({_plain(ledger.energy_basis)})."


def _bill(bill: Bill) -> Iterator[str]:
    yield from ("", "## Environmental impact", "", f"Of the whole lifecycle, all stages: {bill.words}.")
    rows = (
        (one.stage, figure(one.node_hours), _or_dash(one.energy_wh), _or_dash(one.carbon_g), one.energy_basis)
        for one in bill.charges
    )
    yield from _table(("stage", "node hours", "Wh", "g CO2e", "energy is"), rows)
    yield from ("", f"Carbon: {_plain(bill.carbon_basis)}.")


def _or_dash(value: float | None) -> str:
    return "-" if value is None else figure(value)


def _table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield from ("", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}")
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows)


def _plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;"))
