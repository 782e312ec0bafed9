"""The lifecycle, top to bottom: raw documents in, a published revision out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar, cast

from cluster import artifacts, openlineage, registry
from cluster.artifacts import (
    Checkpoint,
    Contamination,
    Dataset,
    GateReport,
    Manifest,
    QuantizedModel,
    Revision,
    Weights,
)
from cluster.errors import GateFailed, InputError, UserError
from cluster.openlineage import OpenLineageConfig
from cluster.storage import Storage
from pipelines.base_model import import_model
from pipelines.config import STAGES, LifecycleConfig, QuantizeConfig, Stage
from pipelines.contamination import measure
from pipelines.data.clean import clean
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.judged import note_judged
from pipelines.evaluation.verdict import gate, judge_before_quantizing, judge_before_training
from pipelines.kv_cache import ConfigJson, config_of
from pipelines.measures import Meters, watched
from pipelines.meters import Guarded, exported
from pipelines.node_hours import NodeHours, write_or_warn
from pipelines.progress import say
from pipelines.progressive import train_in_stages
from pipelines.publish import check_passed, publish_baseline, publish_candidate
from pipelines.quantization.hardware import check_servable, refusals
from pipelines.quantization.quantize import key_of, quantize
from pipelines.search import Before, is_made, search
from pipelines.training.budget import BudgetSpent
from pipelines.training.train import train

A = TypeVar("A", bound=Manifest)


@dataclass
class Run:
    """One pass through the stages: what it is asked to make, and what it has made so far by role."""

    name: str
    storage: Storage
    until: Stage
    remake_from: Stage | None
    collector: OpenLineageConfig | None = None
    meters: Meters = field(default_factory=lambda: Guarded(None))
    """Who is told how it goes."""
    node_hours: NodeHours | None = None
    """Who counts what it takes."""
    made: dict[str, Manifest] = field(default_factory=dict)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def make(self, stage: Stage, role: str, build: Callable[[], A]) -> A:
        """The result of `build`, which finds what is already made by itself; made anew where that was asked for.

        Raises:
            BudgetExceeded: nothing is left of the recipe's budget.
        """
        held = self.node_hours.held(stage, role) if self.node_hours else nullcontext()
        with held, watched(self.name, stage, role, self.meters) as told:
            artifact = self._made(stage, build)
            told.made(artifact)
        if isinstance(artifact, GateReport):
            note_judged(self.storage, self.name, artifact)
        self.made[role] = artifact
        if self.collector is not None and artifact.made_at >= self.began_at:
            self._tell(self.collector, artifact)
        return artifact

    def _made(self, stage: Stage, build: Callable[[], A]) -> A:
        artifact = build()
        if not self.remakes(stage) or artifact.made_at >= self.began_at or isinstance(artifact, Revision):
            return artifact
        _check_unpublished(self.storage, self.name, artifact)
        artifacts.retire(self.storage, artifact)
        try:
            return build()
        except BudgetSpent:
            artifacts.save(self.storage, artifact)  # it could never be made again
            raise

    def remakes(self, stage: Stage) -> bool:
        return self.remake_from is not None and STAGES.index(stage) >= STAGES.index(self.remake_from)

    def _tell(self, collector: OpenLineageConfig, artifact: Manifest) -> None:
        """A collector that is away does not stop what it is told of."""
        try:
            openlineage.send(collector, openlineage.events(self.storage, artifact, self.name, collector.namespace))
        except (openlineage.NotSent, UserError) as error:
            say("lineage", f"{error}; later: serinus data openlineage --send")

    def close_account(self) -> None:
        """The verdict is there: whatever runs from now on is another lifecycle."""
        if self.node_hours is not None and "gate" in self.made:
            began = self.node_hours.account.began_at
            trained = [made for made in self.made.values() if isinstance(made, Checkpoint) and made.made_at >= began]
            once = {one.digest: one.ledger for one in trained}  # the last of progressive training has two roles
            self.node_hours.close(self.made["gate"].digest, [ledger for ledger in once.values() if ledger is not None])

    def ends_with(self, stage: Stage) -> bool:
        return self.until == stage


def run(
    recipe: LifecycleConfig, storage: Storage, *, until: Stage = "publish", remake_from: Stage | None = None
) -> Mapping[str, Manifest]:
    """Make what the recipe describes, up to the stage `until`. Stages already made are skipped.

    Args:
        remake_from: this stage and those after it are made again even if they are already made.

    Returns:
        Role -> manifest: dataset, contamination, base, trained, base_report, trained_report, quantized, quantized_report, gate,
        revision; with several schemes also search, and the quantized model, its report and gate are the last scheme's that was
        tried.

    Raises:
        GateFailed: the model did not pass the gate.
        BudgetExceeded: the recipe's node hours are spent; what was made is kept.
        UserError: something in the recipe, the input or the machine must be mended first.
    """
    _warn_of_quantization(recipe)
    with exported() as meters:
        work = Run(recipe.name, storage, until, remake_from, recipe.openlineage, meters, NodeHours(recipe, storage))
        try:
            made = _stages(recipe, storage, work)
        except GateFailed:
            write_or_warn(work.close_account)
            raise
        if until in ("gate", "publish"):
            work.close_account()
        return made


def _stages(recipe: LifecycleConfig, storage: Storage, work: Run) -> Mapping[str, Manifest]:
    dataset = work.make("clean", "dataset", lambda: clean(recipe.data, storage))
    if work.ends_with("clean"):
        return work.made

    measured = _contamination(recipe, dataset, storage, work)
    base = work.make("train", "base", lambda: import_model(recipe.model, storage))
    if recipe.progressive:
        trained = train_in_stages(recipe, dataset, base, storage, work.make)
    else:
        teacher = _teacher(recipe, storage, work)
        trained = work.make("train", "trained", lambda: train(recipe.train, dataset, base, storage, teacher))
    if work.ends_with("train"):
        return work.made

    base_report = work.make("evaluate", "base_report", lambda: evaluate(recipe.evaluate, base, dataset, storage))
    trained_report = work.make(
        "evaluate", "trained_report", lambda: evaluate(recipe.evaluate, trained, dataset, storage)
    )
    if work.ends_with("evaluate"):
        return work.made

    if recipe.gate.before_quantizing:
        judge = partial(judge_before_quantizing, recipe.gate, base_report, trained_report, storage, measured)
        _stop_if_refused(judge, recipe, storage, work)
    before, anew = Before(dataset, trained, base_report, trained_report, measured), work.remakes("quantize")
    if recipe.quantize.schemes[1:]:
        quantized, verdict = search(recipe, before, storage, work.make, anew=anew)
        if work.ends_with("quantize"):
            return work.made
    else:
        (scheme,) = recipe.quantize.plans
        if anew or not is_made(recipe, scheme, before, storage):
            check_servable(scheme, recipe.evaluate, config_of(storage, trained))
        quantized = work.make("quantize", "quantized", lambda: quantize(scheme, trained, dataset, storage))
        quantized_report = work.make(
            "quantize", "quantized_report", lambda: evaluate(recipe.evaluate, quantized, dataset, storage)
        )
        if work.ends_with("quantize"):
            return work.made
        verdict = work.make(
            "gate",
            "gate",
            lambda: gate(recipe.gate, base_report, trained_report, quantized_report, storage, measured=measured),
        )
    check_passed(recipe.name, verdict, storage)
    if not work.ends_with("gate"):
        work.make("publish", "revision", lambda: publish_candidate(recipe.name, quantized, verdict, storage))
    return work.made


def _contamination(recipe: LifecycleConfig, dataset: Dataset, storage: Storage, work: Run) -> Contamination | None:
    """Measured before the training, which a must that is not passed then spares.

    Raises:
        GateFailed: the model cannot pass the gate, whatever it will be.
    """
    if not recipe.evaluate.contamination or work.ends_with("train"):
        return None
    measured = work.make("evaluate", "contamination", lambda: measure(recipe, dataset, storage))
    if not work.ends_with("evaluate"):
        _stop_if_refused(partial(judge_before_training, recipe.gate, measured, storage), recipe, storage, work)
    return measured


def _stop_if_refused(
    judge: Callable[[], GateReport | None], recipe: LifecycleConfig, storage: Storage, work: Run
) -> None:
    """Raises GateFailed where the verdict is no for certain before the model is whole."""
    if judge() is not None:
        verdict = work.make("gate", "gate", lambda: cast(GateReport, judge()))
        check_passed(recipe.name, verdict, storage)


def _teacher(recipe: LifecycleConfig, storage: Storage, work: Run) -> Weights | None:
    """The model that the new one learns from, with distillation."""
    asked = recipe.train.distillation
    return work.make("train", "teacher", lambda: import_model(asked.teacher, storage)) if asked else None


def _check_unpublished(storage: Storage, name: str, artifact: Manifest) -> None:
    """A revision is immutable: its weights are not made again under its feet."""
    for revision in registry.revisions(storage, name):
        if revision.weights.startswith(f"{artifact.location}/"):
            raise InputError(
                f"--from: {artifact.location}",
                f"is what revision {revision.revision} serves, and revisions never change",
                "change a field of the recipe (a seed, say) to make another one",
            )


def baseline(recipe: LifecycleConfig, storage: Storage) -> Revision:
    """The base model, quantized: what runs as stable before anything was trained."""
    dataset = clean(recipe.data, storage)
    base = import_model(recipe.model, storage)
    # No gate judges it, so of several schemes it gets the largest.
    scheme = recipe.quantize.plans[-1]
    if artifacts.load(storage, QuantizedModel, key_of(scheme, base, dataset)) is None:
        scheme = _largest_servable(recipe, config_of(storage, base))
    say("deploy", f"the base model in {scheme.label} is the first stable revision")
    return publish_baseline(recipe.name, quantize(scheme, base, dataset, storage), storage)


def _warn_of_quantization(recipe: LifecycleConfig) -> None:
    if recipe.train.privacy and any(plan.needs_text for plan in recipe.quantize.plans):
        say(
            "quantize",
            "warning: train.privacy ends with the trained model: weights that are calibrated on the dataset's documents tell"
            " of them without any noise; `method: rtn` without keep_most_sensitive, and `kv_cache: fp8_unscaled`, read none",
        )
    for caveat in recipe.quantization_caveats:
        say("quantize", f"warning: {caveat}")


def _largest_servable(recipe: LifecycleConfig, told: ConfigJson) -> QuantizeConfig:
    """Raises ResourceError: none of the schemes can be served by the pool."""
    plans = recipe.quantize.plans
    served = [
        plan for plan, reason in zip(plans, refusals(plans, recipe.evaluate, told), strict=True) if reason is None
    ]
    if not served:
        check_servable(plans[-1], recipe.evaluate, told)
    return (served or plans)[-1]
