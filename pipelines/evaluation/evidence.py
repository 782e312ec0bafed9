"""What manifests show of a model, for rows of a register. No heavy imports.

Each check says what it looked at in its own words, and passes only with the digest of what shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from cluster.artifacts import Checkpoint, Dataset, EvalReport, GateReport, Manifest, Revision, Weights

Status = Literal["passed", "failed", "not_automatable", "no_evidence"]
Evidence = Literal[
    "sources_hashed",
    "personal_data_rules",
    "duplicates_excluded",
    "evaluation_items_excluded",
    "training_recorded",
    "weights_hashed",
    "accuracy_recorded",
    "baseline_compared",
    "bias_measured",
    "toxicity_measured",
    "refusal_measured",
    "gate_passed",
    "revision_published",
]
ACCURACY = frozenset({"perplexity", "bits_per_byte", "chrf", "accuracy", "f1", "exact_match"})
BIAS = frozenset({"effect_size", "bias_ambiguous", "bias_disambiguated", "stereotype_preference"})
TOXICITY = frozenset({"expected_maximum_toxicity"})
REFUSAL = frozenset({"refusal_rate", "over_refusal_rate"})


class Found(NamedTuple):
    status: Status
    words: str
    digest: str = ""


Made = Mapping[str, Manifest]
"""Role -> manifest, as pipelines.evaluation.report gathers them."""


def last_report(made: Made) -> EvalReport | None:
    """Of the model that would be served: quantized where there is one."""
    reports = (made.get(role) for role in ("quantized_report", "trained_report", "base_report"))
    return next((found for found in reports if isinstance(found, EvalReport)), None)


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


def _duplicates(made: Made) -> Found:
    dataset = made.get("dataset")
    if not isinstance(dataset, Dataset) or not (dataset.config.get("dedup") or {}).get("exact"):
        return Found("no_evidence", "no dataset from which duplicates were excluded")
    found = ", ".join(
        f"{dataset.num_excluded_by_reason.get(f'{kind}_duplicate', 0)} {kind}" for kind in ("exact", "near")
    )
    near = "" if dataset.config["dedup"].get("near") else "; near ones were not looked for"
    return Found("passed", f"duplicates excluded from {dataset.num_documents} documents: {found}{near}", dataset.digest)


def _decontaminated(made: Made) -> Found:
    dataset = made.get("dataset")
    sets = (dataset.config.get("decontaminate") or {}).get("sets") if isinstance(dataset, Dataset) else None
    if not isinstance(dataset, Dataset) or not sets:
        return Found("no_evidence", "no dataset that was held against evaluation sets")
    return Found("passed", f"documents that share text with {len(sets)} evaluation set(s) excluded", dataset.digest)


def _accuracy(made: Made) -> Found:
    report = last_report(made)
    scores = [score for score in report.scores if score.metric in ACCURACY] if report else []
    if report is None or not scores:
        return Found("no_evidence", "no evaluation of what the model knows and can do" if report else "no evaluation")
    named = ", ".join(dict.fromkeys(f"{score.task} {score.metric}" for score in scores))
    return Found("passed", f"with 95 % intervals: {named}", report.digest)


def _baseline(made: Made) -> Found:
    gate = made.get("gate")
    found = gate.differences.get("trained vs base", ()) if isinstance(gate, GateReport) else ()
    if not isinstance(gate, GateReport) or not found:
        return Found("no_evidence", "no comparison with the base model")
    return Found("passed", f"trained against base on {len({one.task for one in found})} task(s)", gate.digest)


def _measured(metrics: frozenset[str], what: str) -> Callable[[Made], Found]:
    """That it was measured, whatever came out."""

    def show(made: Made) -> Found:
        report = last_report(made)
        scores = [score for score in report.scores if score.metric in metrics] if report else []
        if report is None or not scores:
            return Found("no_evidence", f"no task measures {what}")
        said = ", ".join(f"{s.task} {s.metric} {s.value:.3g} [{s.ci_low:.3g}, {s.ci_high:.3g}]" for s in scores)
        return Found("passed", f"measured, whatever came out: {said}", report.digest)

    return show


EVIDENCE: dict[Evidence, Callable[[Made], Found]] = {
    "sources_hashed": _sources,
    "personal_data_rules": _personal_data,
    "duplicates_excluded": _duplicates,
    "evaluation_items_excluded": _decontaminated,
    "accuracy_recorded": _accuracy,
    "baseline_compared": _baseline,
    "bias_measured": _measured(BIAS, "bias"),
    "toxicity_measured": _measured(TOXICITY, "toxicity"),
    "refusal_measured": _measured(REFUSAL, "refusal"),
    "training_recorded": _training,
    "weights_hashed": _weights,
    "gate_passed": _gate,
    "revision_published": _revision,
}
