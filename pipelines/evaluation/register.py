"""Registers of indicators in YAML (a law, a standard, a list of one's own), and what artifacts show of each. No heavy imports.

Nothing passes without an artifact whose digest the row names: what no check shows is "no evidence", what only people can judge is
"not automatable" until someone has judged it and filed the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from cluster.artifacts import Checkpoint, Dataset, EvalReport, GateReport, Manifest, Revision, Weights
from cluster.config import Location, StrictModel, load_yaml
from cluster.errors import InputError
from cluster.storage import sha256_of

FOLDER = Path(__file__).parent / "registers"
SHIPPED = ("owasp_llm_2025", "nist_ai_600_1", "eu_ai_act")
"""What every report shows; the template for a list of one's own has no content to show."""

Status = Literal["passed", "failed", "not_automatable", "no_evidence"]
Evidence = Literal[
    "sources_hashed", "personal_data_rules", "training_recorded", "weights_hashed", "gate_passed", "revision_published"
]


class TaskCheck(StrictModel):
    """A task's 95 % interval lies on the right side of a limit."""

    kind: Literal["task"]
    task: str
    """As `evaluate.tasks` names it."""
    metric: str
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> TaskCheck:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give one of at_least and at_most")
        return self


class ArtifactCheck(StrictModel):
    """A manifest shows it."""

    kind: Literal["artifact"]
    shows: Evidence


class ManualCheck(StrictModel):
    """People judge it. With a verdict go the one who gave it and the file it rests on."""

    kind: Literal["manual"]
    verdict: Literal["passed", "failed"] | None = None
    by: str = ""
    file: Location = ""

    @model_validator(mode="after")
    def _whole(self) -> ManualCheck:
        if self.verdict is not None and not (self.by and self.file):
            raise ValueError("a verdict needs `by` (who judged) and `file` (the evidence)")
        return self


class Indicator(StrictModel):
    id: str = Field(min_length=1)
    source: str
    """Article, section or action in the register's document."""
    text: str
    check: Annotated[TaskCheck | ArtifactCheck | ManualCheck, Field(discriminator="kind")] = ManualCheck(kind="manual")


class Register(StrictModel):
    """A list of indicators."""

    name: str
    source: str
    """The document, its edition and what its licence lets one copy."""
    indicators: tuple[Indicator, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_once(self) -> Register:
        ids = [indicator.id for indicator in self.indicators]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"indicators: given twice: {', '.join(twice)}")
        return self


class Row(StrictModel):
    """One indicator, judged."""

    register_name: str
    id: str
    source: str
    text: str
    status: Status
    found: str
    digest: str = ""
    """Of the manifest, or SHA-256 of the file, that shows it; never empty where passed or failed."""


class Found(NamedTuple):
    status: Status
    words: str
    digest: str = ""


Made = Mapping[str, Manifest]
"""Role -> manifest, as pipelines.evaluation.report gathers them."""


def shipped() -> tuple[Register, ...]:
    """The registers that come with serinus."""
    return tuple(load_yaml(FOLDER / f"{name}.yaml", Register) for name in SHIPPED)


def judge(register: Register, made: Made) -> tuple[Row, ...]:
    """Every row of a register, in its order.

    Raises:
        InputError: a file given as evidence cannot be read.
    """
    return tuple(_row(register, indicator, made) for indicator in register.indicators)


def _row(register: Register, indicator: Indicator, made: Made) -> Row:
    match indicator.check:
        case TaskCheck() as check:
            found = _task(check, made)
        case ArtifactCheck() as check:
            found = EVIDENCE[check.shows](made)
        case ManualCheck() as check:
            found = _manual(indicator.id, check)
    return Row(
        register_name=register.name,
        id=indicator.id,
        source=indicator.source,
        text=indicator.text,
        status=found.status,
        found=found.words,
        digest=found.digest,
    )


def _task(check: TaskCheck, made: Made) -> Found:
    """Of the model that would be served: quantized where there is one."""
    report = next((made[role] for role in ("quantized_report", "trained_report", "base_report") if role in made), None)
    if not isinstance(report, EvalReport):
        return Found("no_evidence", "no evaluation")
    score = next((s for s in report.scores if (s.task, s.metric) == (check.task, check.metric)), None)
    if score is None:
        return Found("no_evidence", f"no task {check.task} with {check.metric} in the evaluation")
    words = f"{score.metric} {score.value:.4g} [{score.ci_low:.4g}, {score.ci_high:.4g}] on {score.num_items} items"
    if check.at_least is not None:
        good, bad, limit = score.ci_low >= check.at_least, score.ci_high < check.at_least, f">= {check.at_least:g}"
    else:
        assert check.at_most is not None
        good, bad, limit = score.ci_high <= check.at_most, score.ci_low > check.at_most, f"<= {check.at_most:g}"
    if good or bad:
        return Found("passed" if good else "failed", f"{words}, asked for {limit}", report.digest)
    return Found("no_evidence", f"{words}: the interval does not settle {limit}", report.digest)


def _manual(name: str, check: ManualCheck) -> Found:
    if check.verdict is None:
        return Found("not_automatable", "for people to judge")
    try:
        return Found(check.verdict, f"judged by {check.by}", sha256_of(Path(check.file)))
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
        raise InputError(
            f"evidence for {name}: {check.file}", found, "give the file that the verdict rests on"
        ) from None


def _sources(made: Made) -> Found:
    dataset = made.get("dataset")
    if not isinstance(dataset, Dataset) or not dataset.sources:
        return Found("no_evidence", "no dataset with its sources")
    return Found("passed", f"{len(dataset.sources)} input files, each with its SHA-256", dataset.digest)


def _personal_data(made: Made) -> Found:
    dataset = made.get("dataset")
    if not isinstance(dataset, Dataset) or not dataset.num_protected_by_kind:
        return Found("no_evidence", "no dataset in which personal data was masked or hashed")
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(dataset.num_protected_by_kind.items()))
    return Found("passed", f"values masked or hashed: {counts}; what the rules missed is not known", dataset.digest)


def _training(made: Made) -> Found:
    trained = made.get("trained")
    if not isinstance(trained, Checkpoint) or not trained.losses or trained.ledger is None:
        return Found("no_evidence", "no training run with losses and ledger")
    return Found("passed", f"losses of {trained.losses[-1].step} steps, operations and time", trained.digest)


def _weights(made: Made) -> Found:
    for role in ("quantized", "trained"):
        weights = made.get(role)
        if isinstance(weights, Weights) and weights.files:
            return Found("passed", f"{len(weights.files)} files of the model, each with its SHA-256", weights.digest)
    return Found("no_evidence", "no weights with hashed files")


def _gate(made: Made) -> Found:
    gate = made.get("gate")
    if not isinstance(gate, GateReport):
        return Found("no_evidence", "no gate has judged it")
    if gate.outcome == "inconclusive":
        return Found("no_evidence", f"the gate could not say ({gate.summary})", gate.digest)
    return Found(gate.outcome, gate.summary, gate.digest)


def _revision(made: Made) -> Found:
    revision = made.get("revision")
    if not isinstance(revision, Revision):
        return Found("no_evidence", "not published")
    return Found("passed", f"published as {revision.revision}, which never changes", revision.digest)


EVIDENCE: dict[Evidence, Callable[[Made], Found]] = {
    "sources_hashed": _sources,
    "personal_data_rules": _personal_data,
    "training_recorded": _training,
    "weights_hashed": _weights,
    "gate_passed": _gate,
    "revision_published": _revision,
}
