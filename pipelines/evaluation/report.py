"""What is on record of a model, in one document for machines; report_page.py renders it for people. No heavy imports.

Every figure is read from a manifest or a file that `evidence` names with its digest; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cluster import artifacts, registry
from cluster.artifacts import (
    Check,
    Checkpoint,
    Contamination,
    Difference,
    EvalReport,
    GateReport,
    Incident,
    Ledger,
    LossPoint,
    Manifest,
    OverlapCheck,
    OverlapRule,
    QuantizedModel,
    Revision,
    SchemeSearch,
    Score,
    Speed,
    TaskContamination,
    Weights,
)
from cluster.config import StrictModel
from cluster.registry import Lineage
from cluster.storage import Storage
from pipelines.evaluation import explain, report_items
from pipelines.evaluation.clean_items import compare_without, contaminated, measured_for, scores_without
from pipelines.evaluation.figures import TESTED
from pipelines.evaluation.judged import find_search
from pipelines.evaluation.notes import notes
from pipelines.evaluation.register import Register, Row, judge
from pipelines.evaluation.report_items import Calibration, WorstItem
from pipelines.evaluation.slices import SliceRecovery, recoveries
from pipelines.kv_cache import bytes_per_token, config_of
from pipelines.spending import Account, of_verdict

MODELS: Final = ("base", "trained", "quantized")


class Evidence(StrictModel):
    """A manifest (or a file of it) that figures were read from."""

    role: str
    kind: str
    path: str
    """In storage."""
    digest: str
    """Of the manifest as `serinus lineage` prints it; of a file its SHA-256."""
    summary: str = ""


class ModelScore(StrictModel):
    model: str
    """base, trained or quantized."""
    score: Score


class Size(StrictModel):
    model: str
    num_parameters: int
    num_weight_bytes: int
    scheme: str = ""
    num_cache_bytes_per_token: int | None = None
    """Of the KV cache, by the model's config.json; None where that does not say."""
    speed: Speed | None = None
    """In the engine that evaluated it."""


class Recovery(StrictModel):
    """What quantizing kept of a task's figure: new / old in percent, of a perplexity old / new."""

    task: str
    metric: str
    percent: float


class CleanScore(StrictModel):
    """A figure on all items, and on those that are not contaminated."""

    model: str
    all: Score
    clean: Score


class Overlap(StrictModel):
    """How many of the evaluation's items stand in what the model learnt from."""

    num_documents: int
    tasks: tuple[TaskContamination, ...]
    scores: tuple[CleanScore, ...] = ()
    """Of the tasks with contaminated items."""
    differences: dict[str, tuple[Difference, ...]] = {}
    """The comparisons on the other items."""


class RunReport(StrictModel):
    """All that the page shows."""

    name: str
    revision: str = ""
    outcome: str = ""
    """Of the gate; empty without one."""
    published: bool = False
    evidence: tuple[Evidence, ...] = ()
    scores: tuple[ModelScore, ...] = ()
    notes: tuple[str, ...] = ()
    """Answers that are none, on which figures rest."""
    differences: dict[str, tuple[Difference, ...]] = {}
    checks: tuple[Check, ...] = ()
    overlaps: tuple[OverlapCheck, ...] = ()
    words: tuple[str, ...] = ()
    """The gate, explained."""
    slices: tuple[SliceRecovery, ...] = ()
    contamination: Overlap | None = None
    sizes: tuple[Size, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    search: SchemeSearch | None = None
    """The schemes that were tried before one was taken."""
    worst: tuple[WorstItem, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    losses: tuple[LossPoint, ...] = ()
    incidents: tuple[Incident, ...] = ()
    ledger: Ledger | None = None
    spending: Account | None = None
    """Node hours until the verdict."""
    compliance: tuple[Row, ...] = ()
    lineage: Lineage | None = None


def of_revision(storage: Storage, name: str, wanted: str, registers: Sequence[Register]) -> RunReport:
    """The report on a published revision (or alias).

    Raises:
        InputError: there is no such revision, or a manifest or file that it rests on is damaged.
    """
    return _report(storage, name, gather(storage, registry.resolve(storage, name, wanted)), registers)


def of_gate(storage: Storage, name: str, gate: GateReport, registers: Sequence[Register]) -> RunReport:
    """The report on the run that a gate judged, published or not."""
    found = (r for r in registry.revisions(storage, name) if r.inputs.get("gate") == gate.digest)
    return _report(storage, name, gather(storage, next(found, gate)), registers)


def gather(storage: Storage, top: Revision | GateReport) -> dict[str, Manifest]:
    """Role -> manifest: revision, gate, the three models and their reports, the dataset; those that there are."""
    made: dict[str, Manifest] = {top.kind: top}
    if isinstance(top, Revision):
        _add(storage, made, "gate", top.inputs.get("gate"))
        _add(storage, made, "quantized", top.inputs.get("weights"))
        _add(storage, made, "adapter", top.inputs.get("adapter"))
    if isinstance(gate := made.get("gate"), GateReport):
        for model in MODELS:
            _add(storage, made, f"{model}_report", gate.inputs.get(model))
            if isinstance(report := made.get(f"{model}_report"), EvalReport):
                _add(storage, made, model, report.model)
                _add(storage, made, "dataset", report.inputs.get("dataset"))
        _add_contamination(storage, made, gate)
        if (search := find_search(storage, gate)) is not None:
            made["search"] = search
    elif "quantized" in made:
        _add_unjudged(storage, made)
    return made


def _add(storage: Storage, made: dict[str, Manifest], role: str, digest: str | None) -> None:
    if digest and role not in made and (found := artifacts.find(storage, digest)) is not None:
        made[role] = found


def _add_contamination(storage: Storage, made: dict[str, Manifest], gate: GateReport) -> None:
    _add(storage, made, "contamination", gate.inputs.get("contamination"))
    reports = [found for model in MODELS if isinstance(found := made.get(f"{model}_report"), EvalReport)]
    trained = found if isinstance(found := made.get("trained"), Checkpoint) else None
    if (
        "contamination" not in made
        and reports
        and (measured := measured_for(storage, reports[-1], trained)) is not None
    ):
        made["contamination"] = measured
    if "contamination" in made:
        _add(storage, made, "dataset", made["contamination"].inputs.get("dataset"))


def _add_unjudged(storage: Storage, made: dict[str, Manifest]) -> None:
    """A baseline has no gate: what its weights were made from, by kind."""
    for digest in made["quantized"].inputs.values():
        found = artifacts.find(storage, digest)
        role = {"model": "base", "checkpoint": "trained", "dataset": "dataset"}.get(found.kind if found else "")
        if role and found is not None:
            made.setdefault(role, found)


def _report(storage: Storage, name: str, made: dict[str, Manifest], registers: Sequence[Register]) -> RunReport:
    revision, gate, trained = made.get("revision"), made.get("gate"), made.get("trained")
    top = revision or made["gate"]
    reports = {model: found for model in MODELS if isinstance(found := made.get(f"{model}_report"), EvalReport)}
    items = report_items.read(storage, reports)
    report = RunReport(
        name=name,
        revision=revision.revision if isinstance(revision, Revision) else "",
        published=revision is not None,
        evidence=tuple(_evidence(made)),
        scores=tuple(_scores(made)),
        notes=tuple(f"{model}: {note}" for model, one in items.items() for note in notes(list(one.rows.values()))),
        sizes=tuple(_sizes(made, storage)),
        slices=tuple(recoveries(items)),
        worst=tuple(report_items.worst(items)),
        calibrations=tuple(report_items.calibrations(items)),
        compliance=tuple(row for register in registers for row in judge(register, made)),
        lineage=registry.lineage(storage, name, top.digest),
    )
    if isinstance(measured := made.get("contamination"), Contamination):
        report = report.replace(contamination=_overlap(storage, measured, reports, items))
    if isinstance(gate, GateReport):
        kept = tuple(
            _recovery(found) for found in gate.differences.get("quantized vs trained", ()) if found.metric in TESTED
        )
        words = tuple(explain.lines(gate)) if gate.config else ()
        figures = {
            "outcome": gate.outcome,
            "differences": gate.differences,
            "checks": gate.checks,
            "overlaps": gate.overlaps,
            "spending": of_verdict(storage, name, gate.digest),
        }
        report = report.replace(**figures, words=words, recoveries=kept)
    if isinstance(search := made.get("search"), SchemeSearch):
        report = report.replace(search=search)
    if isinstance(trained, Checkpoint):
        report = report.replace(losses=trained.losses, incidents=trained.incidents, ledger=trained.ledger)
    return report


def _overlap(
    storage: Storage,
    measured: Contamination,
    reports: Mapping[str, EvalReport],
    items: Mapping[str, report_items.Items],
) -> Overlap:
    """By most of the runs of 8 words, whatever the gate asks for."""
    told = Overlap(num_documents=measured.num_documents, tasks=measured.tasks)
    rules: dict[str, tuple[OverlapRule, ...]] = {task.task: ("most_8_grams",) for task in measured.tasks}
    left_out = contaminated(storage, measured, rules)
    if not left_out:
        return told
    scores = tuple(
        CleanScore(model=model, all=report.score(clean.task, clean.metric), clean=clean)
        for model, report in reports.items()
        for clean in (scores_without(report.scores, items[model].rows, left_out) if model in items else ())
    )
    compared = {
        f"{new} vs {old}": compare_without(storage, reports[old], reports[new], left_out)
        for old, new in (("base", "trained"), ("trained", "quantized"), ("base", "quantized"))
        if {old, new} <= reports.keys()
    }
    return told.replace(scores=scores, differences={name: found for name, found in compared.items() if found})


def _evidence(made: dict[str, Manifest]) -> Iterator[Evidence]:
    for role, found in made.items():
        path = f"{found.location}/manifest.json"
        yield Evidence(role=role, kind=found.kind, path=path, digest=found.digest, summary=found.summary)
        for file in found.files if isinstance(found, EvalReport | Contamination) else ():
            yield Evidence(role=role, kind="file", path=f"{found.location}/{file.path}", digest=file.sha256)


def _scores(made: dict[str, Manifest]) -> Iterator[ModelScore]:
    for model in MODELS:
        if isinstance(report := made.get(f"{model}_report"), EvalReport):
            yield from (ModelScore(model=model, score=score) for score in report.scores)


def _sizes(made: dict[str, Manifest], storage: Storage) -> Iterator[Size]:
    for model in MODELS:
        if isinstance(found := made.get(model), Weights):
            scheme = found.scheme if isinstance(found, QuantizedModel) else ""
            figures = {"num_parameters": found.num_parameters, "num_weight_bytes": found.num_weight_bytes}
            cache = bytes_per_token(config_of(storage, found))
            report = made.get(f"{model}_report")
            speed = report.speed if isinstance(report, EvalReport) else None
            yield Size(model=model, scheme=scheme, num_cache_bytes_per_token=cache, speed=speed, **figures)


def _recovery(found: Difference) -> Recovery:
    """As gate.Pair.recovery has it: a model that scored nothing leaves nothing to lose."""
    old, new = (found.old, found.new) if found.higher_is_better else (found.new, found.old)
    return Recovery(task=found.task, metric=found.metric, percent=100 * new / old if old else 100.0)
