"""A published revision and all that it was made from, in a storage, without a run: small figures, real manifests and Parquet."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from cluster import artifacts, registry
from cluster.artifacts import (
    Checkpoint,
    Dataset,
    EvalReport,
    FileEntry,
    GateReport,
    ImportedModel,
    Ledger,
    LossPoint,
    QuantizedModel,
    Revision,
    Source,
)
from cluster.storage import Storage
from pipelines.config import GateConfig
from pipelines.evaluation.compare import compare, pairs, scores_of
from pipelines.evaluation.gate import is_let_through, judge, outcome_of
from pipelines.evaluation.rows import write_rows

NAME = "finch"
EVIL = "<script>alert('x')</script><img src=https://example.org/x.png onerror=alert(1)>"
RIGHT = {"base": 24, "trained": 34, "quantized": 33}
"""Of 40 items."""


def publish(storage: Storage) -> Revision:
    """Under `NAME`, as the alias candidate."""
    raw = Source(path="raw.jsonl", num_bytes=10, sha256="5" * 64)
    dataset = artifacts.save(
        storage,
        Dataset(
            key="d" * 16,
            sources=(raw,),
            num_documents=9,
            num_train=7,
            num_heldout=1,
            num_protected_by_kind={"email": 3},
        ),
    )
    base = artifacts.save(
        storage, ImportedModel(key="b" * 16, sources=(raw,), num_parameters=1_000, num_weight_bytes=2_000)
    )
    inputs = {"dataset": dataset.digest, "model": base.digest}
    trained = artifacts.save(storage, _trained(inputs))
    quantized = artifacts.save(storage, _quantized({**inputs, "model": trained.digest}))
    models = {"base": base, "trained": trained, "quantized": quantized}
    reports = {role: _evaluated(storage, role, model.digest, dataset.digest) for role, model in models.items()}
    gate = artifacts.save(storage, _judged(storage, reports))
    made = Revision(
        key="e" * 16, name=NAME, revision=f"{NAME}-eeeeeeee", inputs={"weights": quantized.digest, "gate": gate.digest}
    )
    registry.publish_revision(storage, made)
    registry.move_alias(storage, NAME, "candidate", made.revision)
    return registry.resolve(storage, NAME, "candidate")


def _trained(inputs: dict[str, str]) -> Checkpoint:
    losses = tuple(LossPoint(step=n, loss=3 + 2 / n, learning_rate=1e-4, num_tokens=512 * n) for n in range(1, 13))
    cost = Ledger(
        num_tokens=6144,
        flops=3.7e7,
        flops_basis="6 N D",
        device=f"cpu {EVIL}",
        num_devices=2,
        trained_s=8.5,
        energy_basis="none",
    )
    return Checkpoint(
        key="c" * 16, inputs=inputs, losses=losses, ledger=cost, num_parameters=1_000, num_weight_bytes=2_000
    )


def _quantized(inputs: dict[str, str]) -> QuantizedModel:
    weights = FileEntry(path="model/model.safetensors", num_bytes=1_100, sha256="6" * 64)
    sizes = {"num_weight_bytes": 1_100, "num_weight_bytes_before": 2_000, "num_parameters": 1_000}
    return QuantizedModel(key="a" * 16, inputs=inputs, scheme="W8A8", files=(weights,), **sizes)


def _evaluated(storage: Storage, role: str, model: str, dataset: str) -> EvalReport:
    report = EvalReport(
        key=hashlib.sha256(role.encode()).hexdigest()[:16], model=model, inputs={"model": model, "dataset": dataset}
    )
    content = io.BytesIO()
    write_rows(content, list(_rows(role)))
    entry = FileEntry(
        path="items.parquet", num_bytes=content.tell(), sha256=hashlib.sha256(content.getvalue()).hexdigest()
    )
    storage.write(f"{report.location}/items.parquet", content.getvalue())
    kinds = {"answers": "multiple_choice", "heldout": "perplexity"}
    scores = (scores_of(task, kind, [r for r in _rows(role) if r["task"] == task])[0] for task, kind in kinds.items())
    return artifacts.save(storage, report.replace(scores=tuple(scores), files=(entry,)))


def _rows(role: str) -> Iterator[dict[str, object]]:
    for n in range(40):
        right = n < RIGHT[role]
        output = "the right answer" if right else f"wrong {EVIL}"
        sure = {"confidence": 0.5 + n / 100}
        asked = {"prompt": f"What is {n} + 1? {EVIL}", "wanted": "the right answer", "figures": sure}
        yield {**_row("answers", n, float(right), right, output), **asked}
    for n in range(30):
        yield _row("heldout", n, -1.0 - n / 100 + RIGHT[role] / 100, None, "")


def _row(task: str, n: int, score: float, correct: bool | None, output: str) -> dict[str, object]:
    figures = {"score": score, "nll": 3.0 - score, "num_tokens": 1, "num_bytes": 4}
    return {"task": task, "id": f"{task}-{n:02}", "correct": correct, "output": output, **figures}


def _judged(storage: Storage, reports: dict[str, EvalReport]) -> GateReport:
    base, trained, quantized = reports.values()
    compared = {
        "trained vs base": (base, trained),
        "quantized vs trained": (trained, quantized),
        "quantized vs base": (base, quantized),
    }
    config = GateConfig()
    checks = judge(config, {name: pairs(storage, *two) for name, two in compared.items()})
    return GateReport(
        key="f" * 16,
        inputs={role: report.digest for role, report in reports.items()},
        config=config.model_dump(mode="json"),
        outcome=outcome_of(checks),
        passed=is_let_through(config, outcome_of(checks)),
        checks=checks,
        differences={name: compare(storage, *two) for name, two in compared.items()},
    )
