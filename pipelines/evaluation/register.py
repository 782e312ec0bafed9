"""Registers of indicators in YAML (a law, a standard, a list of one's own), and what artifacts show of each. No heavy imports.

Nothing passes without an artifact whose digest the row names: what no check shows is "no evidence", what only people can judge is
"not automatable" until someone has judged it and filed the evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Location, StrictModel, load_yaml
from cluster.errors import InputError
from cluster.storage import sha256_of
from pipelines.evaluation.evidence import EVIDENCE, Evidence, Found, Made, Status, last_report
from pipelines.evaluation.figures import is_whole

FOLDER = Path(__file__).parent / "registers"
SHIPPED = ("owasp_llm_2025", "nist_ai_600_1", "eu_ai_act")
"""What every report shows; the template for a list of one's own has no content to show."""


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
    if (report := last_report(made)) is None:
        return Found("no_evidence", "no evaluation")
    score = next((s for s in report.scores if (s.task, s.metric) == (check.task, check.metric)), None)
    if score is None:
        return Found("no_evidence", f"no task {check.task} with {check.metric} in the evaluation")
    if score.ci_low == score.ci_high and not is_whole(score.metric):
        found = f"{score.metric} {score.value:.4g} is alike in all {score.num_items} items: they show no interval"
        return Found("no_evidence", found)
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
