"""The gate as a stage: compare the reports item by item, judge, and keep the verdict whether it is yes or no."""

from __future__ import annotations

import time

from cluster import artifacts
from cluster.artifacts import EvalReport, GateReport
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import GateConfig
from pipelines.evaluation.compare import compare
from pipelines.evaluation.gate import judge
from pipelines.progress import say


def gate(
    config: GateConfig, base: EvalReport, trained: EvalReport, quantized: EvalReport, storage: Storage
) -> GateReport:
    """Judge the quantized model. A missed bound is in the report (`passed` is False), not an exception.

    Raises:
        InputError: the reports are not of the same tasks and items.
    """
    began = time.monotonic()
    inputs = {"base": base.digest, "trained": trained.digest, "quantized": quantized.digest}
    settings = config.model_dump(mode="json")
    key = artifacts.stage_key("gate", settings, inputs)
    if (found := artifacts.load(storage, GateReport, key)) is not None:
        say("gate", f"already judged: {'passed' if found.passed else 'NOT passed'}")
        return found
    _check_same_tasks(base, trained, quantized)
    checks = judge(config, base, trained, quantized)
    report = GateReport(
        key=key,
        inputs=inputs,
        config=settings,
        passed=all(check.passed for check in checks),
        checks=checks,
        differences={
            "trained vs base": compare(storage, base, trained),
            "quantized vs trained": compare(storage, trained, quantized),
            "quantized vs base": compare(storage, base, quantized),
        },
        took_s=time.monotonic() - began,
    )
    for check in checks:
        say("gate", f"{'passed' if check.passed else 'MISSED'}  {check.message}")
    return artifacts.save(storage, report)


def _check_same_tasks(base: EvalReport, *others: EvalReport) -> None:
    wanted = {score.task for score in base.scores}
    for other in others:
        if odd := wanted ^ {score.task for score in other.scores}:
            raise InputError(
                f"evaluation {other.key}",
                f"its tasks are not those of the base model's report: {', '.join(sorted(odd))}",
                "evaluate all models with the same recipe",
            )
