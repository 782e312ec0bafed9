"""Quantize until it passes: each scheme quantized, evaluated and judged, from the smallest upward, each an artifact of its own.

An interrupted search finds what it has made and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from cluster import artifacts
from cluster.artifacts import (
    Contamination,
    Dataset,
    EvalReport,
    GateReport,
    Manifest,
    QuantizedModel,
    SchemeAttempt,
    SchemeSearch,
    Weights,
)
from cluster.errors import ResourceError
from cluster.node_cache import local_copy
from cluster.storage import Storage
from pipelines.config import LifecycleConfig, QuantizeConfig, Stage
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.evaluate import key_of as report_key
from pipelines.evaluation.verdict import gate
from pipelines.kv_cache import bytes_per_token, config_of
from pipelines.progress import say
from pipelines.quantization.hardware import refusals
from pipelines.quantization.quantize import check_groups, no_scales, quantize
from pipelines.quantization.quantize import key_of as quantize_key
from pipelines.quantization.search import Choose, GiveUp, Tried, Try, judged, lines, next_step

A = TypeVar("A", bound=Manifest)


class Make(Protocol):
    """`Run.make`: the result of `build`, found or made anew as the run was asked to, and remembered under its role."""

    def __call__(self, stage: Stage, role: str, build: Callable[[], A]) -> A: ...


@dataclass(frozen=True)
class Before:
    """What a quantized model is made of and compared with."""

    dataset: Dataset
    trained: Weights
    base_report: EvalReport
    trained_report: EvalReport
    measured: Contamination | None = None


class Result(NamedTuple):
    """The scheme that passed, or the last one that was refused."""

    quantized: QuantizedModel
    verdict: GateReport


def is_made(recipe: LifecycleConfig, plan: QuantizeConfig, before: Before, storage: Storage) -> bool:
    """Whether the scheme was quantized and evaluated before: then nothing runs, and no hardware needs to be asked."""
    key = quantize_key(plan, before.trained, before.dataset)
    if (quantized := artifacts.load(storage, QuantizedModel, key)) is None:
        return False
    return artifacts.load(storage, EvalReport, report_key(recipe.evaluate, quantized, before.dataset)) is not None


class _Reasons:
    """Why the pool cannot run a scheme. It is asked once, and only when there is something to make: whoever serves may hold all
    its GPUs."""

    def __init__(self, recipe: LifecycleConfig, before: Before, storage: Storage, anew: bool) -> None:
        self._recipe, self._before, self._storage, self._anew = recipe, before, storage, anew
        self._asked: list[str | None] | None = None
        recorded = None if anew else artifacts.load(storage, SchemeSearch, _key(recipe, before))
        attempts = recorded.attempts if recorded else ()
        # Where nothing could be served, the hardware may have been mended since.
        self._recorded = attempts if any(one.outcome != "skipped" for one in attempts) else ()

    def of(self, index: int) -> str | None:
        """Raises InputError: a scheme's groups do not divide the model's layers."""
        plan = self._recipe.quantize.plans[index]
        if not self._anew and is_made(self._recipe, plan, self._before, self._storage):
            return None
        if self._asked is None and [one.outcome for one in self._recorded[index : index + 1]] == ["skipped"]:
            say(
                "quantize",
                f"{plan.label}: what an earlier run found out about the pool holds; --from quantize asks again",
            )
            return self._recorded[index].reason
        self._asked = self._asked or self._ask()
        return self._asked[index]

    def _ask(self) -> list[str | None]:
        plans = self._recipe.quantize.plans
        reasons = refusals(plans, self._recipe.evaluate, config_of(self._storage, self._before.trained))
        folder = local_copy(self._storage, self._before.trained.folder)
        for plan, reason in zip(plans, reasons, strict=True):
            if reason is None:
                check_groups(plan, folder)
        return [reason or no_scales(plan, folder) for plan, reason in zip(plans, reasons, strict=True)]


def search(recipe: LifecycleConfig, before: Before, storage: Storage, make: Make, *, anew: bool = False) -> Result:
    """Try the schemes of `quantize.schemes` in their order until one passes the gate.

    Args:
        anew: nothing that was made or found out before is to be used.

    Raises:
        InputError: a scheme's groups do not divide the model's layers.
        ResourceError: none of the schemes can be served on the hardware of the pool.
    """
    plans = recipe.quantize.plans
    reasons = _Reasons(recipe, before, storage, anew)
    tried: list[Tried] = []
    result: Result | None = None
    while isinstance(step := next_step(len(plans), tried), Try):
        plan, reason = plans[step.index], reasons.of(step.index)
        if reason is not None:
            say("quantize", f"{plan.label} is skipped: {reason}")
            tried.append(Tried(SchemeAttempt(scheme=plan.label, outcome="skipped", reason=reason)))
            continue
        say("quantize", f"scheme {step.index + 1} of {len(plans)}: {plan.label}")
        found, result = _attempt(recipe, plan, before, storage, make)
        tried.append(found)
    make("quantize", "search", lambda: _record(recipe, before, tried, step, storage))
    if result is None:
        remedy = "add a scheme that runs there (w8a8 or bf16) to quantize.schemes, or use another pool for evaluate and serve"
        raise ResourceError(
            "quantize.schemes", "; ".join(f"{t.attempt.scheme} {t.attempt.reason}" for t in tried), remedy
        )
    return result


def _attempt(
    recipe: LifecycleConfig, plan: QuantizeConfig, before: Before, storage: Storage, make: Make
) -> tuple[Tried, Result]:
    quantized = make("quantize", "quantized", lambda: quantize(plan, before.trained, before.dataset, storage))
    report = make("quantize", "quantized_report", lambda: evaluate(recipe.evaluate, quantized, before.dataset, storage))
    verdict = make(
        "gate",
        "gate",
        lambda: gate(recipe.gate, before.base_report, before.trained_report, report, storage, measured=before.measured),
    )
    attempt = SchemeAttempt(
        scheme=plan.label,
        outcome="refused",
        weights=quantized.digest,
        report=report.digest,
        num_weight_bytes=quantized.num_weight_bytes,
        num_cache_bytes_per_token=bytes_per_token(config_of(storage, quantized)) or 0,
        speed=report.speed,
        took_s=quantized.took_s + report.took_s + verdict.took_s,
    )
    return judged(plan.label, verdict, attempt), Result(quantized, verdict)


def _record(
    recipe: LifecycleConfig, before: Before, tried: list[Tried], step: Choose | GiveUp, storage: Storage
) -> SchemeSearch:
    """What was tried, written anew each time: what it rests on is found under the digests in it."""
    inputs, settings = _inputs(before), _settings(recipe)
    made = SchemeSearch(
        key=_key(recipe, before),
        inputs=inputs,
        config=settings,
        chosen=tried[step.index].attempt.scheme if isinstance(step, Choose) else "",
        why=step.reason if isinstance(step, GiveUp) else "",
        attempts=tuple(one.attempt for one in tried),
        num_weight_bytes_before=before.trained.num_weight_bytes,
        took_s=sum(one.attempt.took_s for one in tried),
    )
    for line in lines(made):
        say("quantize", line)
    return artifacts.save(storage, made)


def _key(recipe: LifecycleConfig, before: Before) -> str:
    return artifacts.stage_key("search", _settings(recipe), _inputs(before))


def _inputs(before: Before) -> dict[str, str]:
    return {
        "trained": before.trained.digest,
        "base_report": before.base_report.digest,
        "trained_report": before.trained_report.digest,
    }


def _settings(recipe: LifecycleConfig) -> dict[str, Any]:
    """What decides the search: also where its engines run, since schemes are skipped for their hardware."""
    return {
        "schemes": [plan.settings for plan in recipe.quantize.plans],
        "gate": recipe.gate.model_dump(mode="json"),
        "engine": recipe.evaluate.model_dump(mode="json", include={"pool", "num_gpus"}),
    }
