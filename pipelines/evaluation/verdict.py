"""The gate as a stage: compare the reports item by item, judge, and keep the verdict whether it is yes or no."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from cluster import artifacts
from cluster.artifacts import Contamination, Difference, EvalReport, GateReport
from cluster.errors import InputError
from cluster.storage import Storage, open_storage
from cluster.versions import every, fitting
from pipelines.config import Comparison, GateConfig, Stratum, asked_of
from pipelines.evaluation.clean_items import compare_without, contaminated
from pipelines.evaluation.compare import compare, pairs
from pipelines.evaluation.explain import mark
from pipelines.evaluation.gate import Pair, is_let_through, is_refused, judge, judge_trained, outcome_of
from pipelines.evaluation.overlap import judge_overlap, rules_of
from pipelines.progress import say

COMPARISONS: tuple[Comparison, ...] = get_args(Comparison)
VERSION = 1
"""Raise it when the same items lead to another verdict: gates judged before are then judged anew."""


def gate(
    config: GateConfig,
    base: EvalReport,
    trained: EvalReport,
    quantized: EvalReport,
    storage: Storage,
    *,
    measured: Contamination | None = None,
) -> GateReport:
    """Judge the quantized model. A no is in the report (`passed` is False), not an exception.

    Args:
        measured: the contamination, where the recipe asks for it.

    Raises:
        InputError: the reports are not of the same tasks and items, or an item's figure is missing.
    """
    began = time.monotonic()
    inputs = {"base": base.digest, "trained": trained.digest, "quantized": quantized.digest}
    if config.contamination:
        assert measured is not None, "LifecycleConfig lets no limit through without measuring"
        inputs["contamination"] = measured.digest
    settings = _settings(config)
    key = artifacts.stage_key("gate", settings, inputs)
    if (found := artifacts.load(storage, GateReport, key)) is not None:
        say("gate", f"already judged: {found.summary}")
        return found
    _check_same_tasks(base, trained, quantized)
    compared = {"trained vs base": (base, trained), "quantized vs trained": (trained, quantized)}
    compared["quantized vs base"] = (base, quantized)
    paired = {name: pairs(storage, *reports, _strata(config)) for name, reports in compared.items()}
    _check_sliced(config, paired)
    checks, overlaps = judge(config, paired), judge_overlap(config, measured) if measured else ()
    clean = _clean(config, measured, compared, storage) if overlaps and measured else {}
    outcome = outcome_of((*overlaps, *checks))
    report = GateReport(
        key=key,
        inputs=inputs,
        config=settings,
        outcome=outcome,
        passed=is_let_through(config, outcome),
        checks=checks,
        overlaps=overlaps,
        clean_differences=clean,
        differences={name: compare(storage, *reports) for name, reports in compared.items()},
        took_s=time.monotonic() - began,
    )
    return _told(artifacts.save(storage, report))


def judge_before_training(config: GateConfig, measured: Contamination, storage: Storage) -> GateReport | None:
    """The verdict by what the model is to learn from; None where it is not no for certain."""
    found = judge_overlap(config, measured)
    if not is_refused(config, found):
        return None
    inputs = {"contamination": measured.digest}
    return _refusal(config, storage, GateReport(key="", before="train", inputs=inputs, overlaps=found))


def judge_before_quantizing(
    config: GateConfig, base: EvalReport, trained: EvalReport, storage: Storage, measured: Contamination | None = None
) -> GateReport | None:
    """The verdict by what training did, before the model is quantized; None where it is not no for certain.

    Raises:
        InputError: as `gate`.
    """
    _check_same_tasks(base, trained)
    paired = pairs(storage, base, trained, _strata(config))
    _check_sliced(config, dict.fromkeys(COMPARISONS, paired))
    checks, overlaps = judge_trained(config, paired), judge_overlap(config, measured) if measured else ()
    if not is_refused(config, (*overlaps, *checks)):
        for one in checks:
            say("gate", f"before quantizing: {mark(one)}{one.message}")
        return None
    inputs = {"base": base.digest, "trained": trained.digest}
    inputs |= {"contamination": measured.digest} if measured and overlaps else {}
    found = GateReport(key="", before="quantize", inputs=inputs, checks=checks, overlaps=overlaps)
    return _refusal(config, storage, found.replace(differences={"trained vs base": compare(storage, base, trained)}))


def _refusal(config: GateConfig, storage: Storage, report: GateReport) -> GateReport:
    """A verdict that is no before there is a whole model, kept."""
    settings = {**_settings(config), "before": report.before}
    key, outcome = artifacts.stage_key("gate", settings, report.inputs), outcome_of(report.findings)
    if (found := artifacts.load(storage, GateReport, key)) is not None:
        return found
    return _told(artifacts.save(storage, report.replace(key=key, config=settings, outcome=outcome)))


def _told(report: GateReport) -> GateReport:
    for one in report.findings:
        say("gate", f"{mark(one)}{one.message}{'  <- WARNING' if one in report.warnings else ''}")
    say("gate", report.summary)
    return report


def _clean(
    config: GateConfig,
    measured: Contamination,
    compared: Mapping[str, tuple[EvalReport, EvalReport]],
    storage: Storage,
) -> dict[str, tuple[Difference, ...]]:
    """Each comparison on the items that are not contaminated by the rules that are asked for, of tasks that have such."""
    left_out = contaminated(storage, measured, rules_of(config, measured))
    found = {name: compare_without(storage, *reports, left_out) for name, reports in compared.items()}
    return {name: some for name, some in found.items() if some}


def _strata(config: GateConfig) -> list[Stratum]:
    return sorted({asked.per for asked in config.requirements if asked.per != "task"})


def _settings(config: GateConfig) -> dict[str, Any]:
    """What decides the verdict. A task as a whole was all there was to ask of before slices: such gates keep their key."""
    settings = config.model_dump(mode="json", exclude={"before_quantizing"})
    for asked in settings["requirements"]:
        if asked["per"] == "task":
            del asked["per"]
    if not config.contamination:
        del settings["contamination"]
    return {**settings, "rule_version": VERSION}


def _check_sliced(config: GateConfig, pairs: Mapping[str, Sequence[Pair]]) -> None:
    """Raises InputError for a requirement that is asked of no slice, which would pass unseen."""
    for asked in (requirement for requirement in config.requirements if requirement.per != "task"):
        if not any(
            pair.per == asked.per and asked_of(asked, pair.task, pair.is_perplexity) for pair in pairs[asked.compare]
        ):
            raise InputError(
                f"gate: {asked.compare}, per {asked.per}",
                f"no evaluated item says its {asked.per}",
                f"give the tasks' items a `{asked.per}`, or evaluate again what an earlier version did: --from evaluate",
            )


def _check_same_tasks(base: EvalReport, *others: EvalReport) -> None:
    wanted = {score.task for score in base.scores}
    for other in others:
        if odd := wanted ^ {score.task for score in other.scores}:
            raise InputError(
                f"evaluation {other.key}",
                f"its tasks are not those of the base model's report: {', '.join(sorted(odd))}",
                "evaluate all models with the same recipe",
            )


def find_report(storage: Storage, wanted: str | None = None, not_of: Collection[str] = ()) -> GateReport:
    """A gate's report by its key, digest or the beginning of one of them; without any the one made last.

    Args:
        not_of: digests or keys of reports that are another model's.

    Raises:
        InputError: there is none, or more than one.
    """
    reports, unreadable = every(storage, GateReport)  # those of an earlier version say less, and stay for the lineage
    reports = [found for found in reports if not {found.digest, found.key} & {*not_of}]
    if wanted is not None:
        reports = fitting(reports, wanted)
    if len(reports) == 1 or (reports and wanted is None):
        return reports[-1]
    why = f"{len(reports)} gate reports match {wanted}" if reports else f"no gate report {wanted or 'yet'}"
    if unreadable:
        why += f" ({len(unreadable)} of another version cannot be read)"
    raise InputError(f"{storage.uri}/artifacts/gate", why, "make one: serinus run RECIPE")


def read_report(path: str) -> GateReport:
    """A gate's report from its manifest.json, wherever that lies.

    Raises:
        InputError: there is none, or it is no gate's.
    """
    folder, _, name = path.rpartition("/")
    blob = open_storage(folder or ".").read(name)
    if blob is None:
        raise InputError(path, "no such file", "name the manifest.json of a gate, or its key")
    try:
        return GateReport.model_validate_json(blob.content)
    except ValueError as error:
        raise InputError(
            path, f"not a gate's report ({str(error).splitlines()[0]})", "name the manifest.json of a gate"
        ) from None


def storage_of(path: str) -> Storage | None:
    """The storage in which a gate's manifest.json lies; None where it was copied out of one."""
    root, found, _ = path.rpartition("/artifacts/gate/")
    return open_storage(root) if found else None
