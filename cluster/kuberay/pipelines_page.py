"""The dashboard of what stages make: how far they are, how training goes, what came out."""

from __future__ import annotations

from cluster.kuberay.panels import OURS, Dashboard, Line, Panel
from cluster.telemetry import (
    CLEAN_DOCUMENTS,
    CLEAN_EXCLUDED,
    CLEAN_SPEED,
    EVALUATE_SCORE,
    GATE_VERDICTS,
    QUANTIZE_BYTES,
    QUANTIZE_SCHEME,
    STAGE_BEGAN,
    STAGE_DONE,
    STAGE_ENDED,
    STAGE_PLANNED,
    STAGE_RUNNING,
    TRAIN_BUDGET_SPENT,
    TRAIN_CHECKPOINT_SECONDS,
    TRAIN_CHECKPOINTS,
    TRAIN_EPSILON,
    TRAIN_GRADIENT_NORM,
    TRAIN_LEARNING_RATE,
    TRAIN_LOSS,
    TRAIN_MFU,
    TRAIN_RESUMES,
    TRAIN_REWARD,
    TRAIN_ROLLBACKS,
    TRAIN_SPEED,
    TRAIN_STEP_AT,
)


def _most(metric: str, by: str) -> str:
    """A gauge, whichever driver tells it."""
    return f"max by ({by}) (ray_{metric}{{{OURS}}})"


def _count(metric: str, by: str) -> str:
    """Since the node is there: stages end once, so that a rate would show little."""
    return f"sum by ({by}) (ray_{metric}_total{{{OURS}}})"


def _of_model(metric: str, what: str = "") -> Line:
    return Line(_most(metric, "model"), f"{{{{model}}}} {what}".rstrip())


OF_STAGE = "model, stage"
DONE = f"{_most(STAGE_DONE, f'{OF_STAGE}, unit')} / {_most(STAGE_PLANNED, f'{OF_STAGE}, unit')}"
UNDER_WAY = f"(time() - {_most(STAGE_BEGAN, OF_STAGE)}) * ({_most(STAGE_RUNNING, OF_STAGE)} > 0)"
DOCUMENTS = f'max by (model, unit) (deriv(ray_{STAGE_DONE}{{{OURS}, stage="clean"}}[$__rate_interval]))'
SAVING = f"{_count(TRAIN_CHECKPOINT_SECONDS, 'model')} / {_count(TRAIN_CHECKPOINTS, 'model')}"
SINCE_STEP = f"time() - max by (model) (ray_{TRAIN_STEP_AT}{{{OURS}}} > 0)"

STAGES = (
    Panel("Stages at work, and for how long", "s", (Line(UNDER_WAY, "{{model}} {{stage}}"),)),
    Panel("Work done", "percentunit", (Line(DONE, "{{model}} {{stage}}, {{unit}}"),), "Of what is planned."),
    Panel(
        "What stages ended with",
        "short",
        (Line(_count(STAGE_ENDED, f"{OF_STAGE}, outcome"), "{{model}} {{stage}} {{outcome}}"),),
        "Artifacts since the node is there; cached: there was nothing to do.",
    ),
)

CLEAN = (
    Panel("Cleaning", "short", (Line(DOCUMENTS, "{{model}} {{unit}} per second"),)),
    Panel(
        "Cleaning, bytes as stored", "Bps", (_of_model(CLEAN_SPEED),), "Of the last run as a whole, once it has ended."
    ),
    Panel("Documents cleaned", "short", (Line(_count(CLEAN_DOCUMENTS, "model, result"), "{{model}} {{result}}"),)),
    Panel("Documents excluded", "short", (Line(_count(CLEAN_EXCLUDED, "reason"), "{{reason}}"),)),
)

TRAIN = (
    Panel("Loss, and reward", "short", (_of_model(TRAIN_LOSS), _of_model(TRAIN_REWARD, "reward"))),
    Panel("Training", "short", (_of_model(TRAIN_SPEED, "tokens per second"),)),
    Panel(
        "Gradient's norm and learning rate",
        "short",
        (_of_model(TRAIN_GRADIENT_NORM, "norm"), _of_model(TRAIN_LEARNING_RATE, "learning rate")),
    ),
    Panel("Since the last step", "s", (Line(SINCE_STEP, "{{model}}"),), "None while no step is awaited."),
    Panel(
        "Rolled back, taken up again",
        "short",
        (_of_model(TRAIN_ROLLBACKS, "steps that did not stand"), _of_model(TRAIN_RESUMES, "times taken up again")),
    ),
    Panel("Steps stand still for a checkpoint", "s", (Line(SAVING, "{{model}}"),)),
    Panel("Model FLOPs utilization", "percentunit", (_of_model(TRAIN_MFU),), "Of a whole run, once it has ended."),
    Panel(
        "Privacy spent",
        "short",
        (_of_model(TRAIN_EPSILON, "epsilon of the run"), _of_model(TRAIN_BUDGET_SPENT, "share of the data's budget")),
    ),
)

VERDICTS = (
    Panel(
        "Scores",
        "short",
        (Line(_most(EVALUATE_SCORE, "artifact, task, metric"), "{{artifact}} {{task}} {{metric}}"),),
    ),
    Panel("Quantized weights", "bytes", (Line(_most(QUANTIZE_BYTES, "model, scheme"), "{{model}} {{scheme}}"),)),
    Panel(
        "Schemes tried",
        "short",
        (Line(_most(QUANTIZE_SCHEME, "model, scheme, outcome"), "{{model}} {{scheme}} {{outcome}}"),),
    ),
    Panel("Gates", "short", (Line(_count(GATE_VERDICTS, "model, outcome"), "{{model}} {{outcome}}"),)),
)

PIPELINES = Dashboard(
    "serinus-pipelines", "serinus: pipelines", f"{STAGE_ENDED}_total", (*STAGES, *CLEAN, *TRAIN, *VERDICTS)
)
