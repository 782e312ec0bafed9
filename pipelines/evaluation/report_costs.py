"""The parts of a report's page about what a model takes, and what it took to make: sizes, speeds, training, node hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape

from cluster.artifacts import Ledger, Speed
from cluster.artifacts.evaluation import told
from pipelines.bill import Bill, figure
from pipelines.evaluation import plots
from pipelines.evaluation.page_parts import named, table
from pipelines.evaluation.report import RunReport, Size
from pipelines.spending import Account


def sizes(report: RunReport) -> Iterator[str]:
    """Bytes of each model, how fast its engine was, and what quantizing kept."""
    if report.sizes:
        yield table(
            ("model", "scheme", "parameters", "bytes", "cache, bytes a token", ""),
            (_size(report, s) for s in report.sizes),
        )
        yield from _speeds(report)
        yield "<p><small>Bytes of the weights' files, and of keys and values in the engine's cache for each token (bfloat16 where"
        yield " the cache is not quantized).</small>"
    if report.recoveries:
        kept = ((escape(r.task), escape(r.metric), f"{r.percent:.1f} %") for r in report.recoveries)
        yield "<h3>Quantized against trained</h3>" + table(("task", "metric", "kept"), kept)


def _speeds(report: RunReport) -> Iterator[str]:
    timed = [(size.model, size.speed) for size in report.sizes if size.speed]
    if not timed:
        return
    nums = sorted({rate.num_requests for _, speed in timed for rate in speed.rates})
    names = ("model", *(f"tokens/s at {num}" for num in nums), "ttft, ms", "prompt", "written")
    yield "<h3>Speed</h3>" + table(names, (_speed(model, speed, nums) for model, speed in timed))
    yield "<p><small>Tokens a second of all requests together, so many at once, and milliseconds to the first token of one alone;"
    yield " in the engine that evaluated the model, on its machine, with whatever else ran there. prompt and written: tokens of"
    yield " each request.</small>"


def _speed(model: str, speed: Speed, nums: Sequence[int]) -> tuple[str, ...]:
    rates = {rate.num_requests: told(rate.tokens_per_s) for rate in speed.rates}
    return (
        model,
        *(rates.get(num, "") for num in nums),
        told(1000 * speed.ttft_s),
        str(speed.num_prompt_tokens),
        str(speed.num_written_tokens),
    )


def _size(report: RunReport, size: Size) -> tuple[str, ...]:
    cache = "not known" if size.num_cache_bytes_per_token is None else f"{size.num_cache_bytes_per_token:,}"
    counts = (f"{size.num_parameters:,}", f"{size.num_weight_bytes:,}", cache)
    return size.model, escape(size.scheme), *counts, named(report, size.model)


def training(report: RunReport) -> Iterator[str]:
    """Its losses, what did not stand, and the ledger."""
    if report.losses:
        yield "<h3>Loss by optimizer step</h3>"
        yield plots.curve("loss by optimizer step", [(point.step, point.loss) for point in report.losses])
    if report.incidents:
        rows = ((str(i.step), escape(i.reason), str(i.back_to_step)) for i in report.incidents)
        yield "<h3>Steps that did not stand</h3>" + table(("step", "reason", "back to step"), rows)
    if report.ledger:
        yield "<h3>Ledger</h3>" + table(("", ""), _ledger(report.ledger))
    if report.losses or report.ledger:
        yield named(report, "trained")


def _ledger(ledger: Ledger) -> Iterator[tuple[str, str]]:
    energy = "none" if ledger.energy_wh is None else f"{ledger.energy_wh:g} Wh"
    yield "tokens", f"{ledger.num_tokens:,}"
    yield "operations", f"{ledger.flops:.3g} <small>{escape(ledger.flops_basis)}</small>"
    yield "device", f"{ledger.num_devices} x {escape(ledger.device)}"
    yield "model FLOPs utilization", "not known" if ledger.mfu is None else f"{ledger.mfu:.1%}"
    yield "time in steps", f"{ledger.trained_s:g} s"
    yield "energy", f"{energy} <small>{escape(ledger.energy_basis)}</small>"


def node_hours(report: RunReport) -> Iterator[str]:
    """Of the lifecycle, with its bill where there is one."""
    if report.spending:
        yield _bill(report.spending.bill) if report.spending.bill else _hours(report.spending)
        yield f"<p>Of all runs of this lifecycle, as counted in <code>{escape(report.spending.key)}</code>.</p>"


def _hours(spent: Account) -> str:
    rows = ((escape(stage), f"{hours:.3g}") for stage, hours in spent.by_stage.items())
    return table(("stage", "node hours"), (*rows, ("together", f"{spent.node_hours:.3g}")))


def _bill(bill: Bill) -> str:
    def row(name: str, told: Callable[[str], float | None], basis: str) -> tuple[str, ...]:
        figures = (told(column) for column in ("node_hours", "energy_wh", "carbon_g", "money"))
        return (name, *("" if one is None else figure(one) for one in figures), f"<small>{escape(basis)}</small>")

    stages = (row(escape(one.stage), partial(getattr, one), one.energy_basis) for one in bill.charges)
    heads = ("stage", "node hours", "energy, Wh", "carbon, g CO2e", f"money, {bill.currency}", "energy is")
    return table(heads, (*stages, row("together", bill.totals.get, f"carbon: {bill.carbon_basis}")))
