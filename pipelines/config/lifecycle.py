"""The recipe of a lifecycle, up to the published revision. No heavy imports here."""

from __future__ import annotations

from pydantic import ConfigDict, model_validator

from cluster.openlineage import OpenLineageConfig
from cluster.recipe import NamedRecipe
from pipelines.config.data import DataConfig
from pipelines.config.evaluation import EvaluateConfig
from pipelines.config.gate import GateConfig, asked_of
from pipelines.config.model import ModelConfig
from pipelines.config.progressive import ProgressiveConfig, refuse
from pipelines.config.quantization import QuantizeConfig
from pipelines.config.spending import LedgerConfig, NodeBudgetConfig
from pipelines.config.training import TrainConfig
from pipelines.task_config import UNGATED, UNMEASURED


class LifecycleConfig(NamedRecipe):
    """What `serinus run` makes, in the order of the fields."""

    model_config = ConfigDict(extra="forbid")

    data: DataConfig
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    progressive: ProgressiveConfig | None = None
    """Train in stages from random weights instead of fine-tuning; `model` then gives architecture and tokenizer, and `train` what
    all stages have in common."""
    evaluate: EvaluateConfig
    quantize: QuantizeConfig = QuantizeConfig()
    gate: GateConfig = GateConfig()
    budget: NodeBudgetConfig | None = None
    """What all runs of this lifecycle together may take of the cluster. Leave it out and there is no limit."""
    ledger: LedgerConfig = LedgerConfig()
    """What those node hours are reckoned as: energy, carbon, money."""
    openlineage: OpenLineageConfig | None = None
    """Who is told of what was made, by OpenLineage events. Leave it out and nobody is."""

    @model_validator(mode="after")
    def _stages_can_be_trained(self) -> LifecycleConfig:
        if self.progressive is not None:
            refuse(self.train)
            self.progressive.runs(self.train)
        return self

    @property
    def last_train(self) -> TrainConfig:
        """The training that makes the model: `train`, or the last run of the last stage."""
        return self.progressive.runs(self.train)[-1].train if self.progressive else self.train

    @property
    def quantization_caveats(self) -> tuple[str, ...]:
        """That what is stored will not be what was trained."""
        if (asked := self.train.quantization_aware) is None:
            return ()
        reasons = [asked.departure(plan) for plan in self.quantize.plans]
        return () if None in reasons else tuple(f"train.quantization_aware: {reason}" for reason in reasons[:1])

    @model_validator(mode="after")
    def _contamination_is_measured(self) -> LifecycleConfig:
        kinds: dict[str, str] = {task.name: task.kind for task in self.evaluate.tasks}
        for limit in self.gate.contamination:
            asked = kinds.keys() if limit.tasks == "all" else limit.tasks
            if unknown := sorted({*asked} - kinds.keys()):
                known = ", ".join(sorted(kinds))
                raise ValueError(f"gate.contamination: no task is named {', '.join(unknown)} (there are {known})")
            unmeasured = sorted({kinds[name] for name in asked} & UNMEASURED)
            if unmeasured and (limit.tasks != "all" or {*kinds.values()} <= UNMEASURED):
                raise ValueError(f"gate.contamination: tasks of kind {', '.join(unmeasured)} are not measured")
        if self.gate.contamination and not self.evaluate.contamination:
            raise ValueError("gate.contamination: nothing is measured, for evaluate.contamination is false")
        return self

    @model_validator(mode="after")
    def _gate_judges_something(self) -> LifecycleConfig:
        names = {task.name for task in self.evaluate.tasks}
        ungated = {task.name for task in self.evaluate.tasks if task.kind in UNGATED}
        for requirement in self.gate.requirements:
            if isinstance(requirement.tasks, tuple) and (unknown := sorted(set(requirement.tasks) - names)):
                raise ValueError(
                    f"gate: no evaluation task is named {', '.join(unknown)} (there are {', '.join(sorted(names))})"
                )
            if isinstance(requirement.tasks, tuple) and (alone := sorted(set(requirement.tasks) & ungated)):
                raise ValueError(
                    f"gate: {', '.join(alone)} is of a kind that is reported and not compared ({', '.join(UNGATED)})"
                )
        musts = [requirement for requirement in self.gate.requirements if requirement.priority == "must"]
        if not any(
            asked_of(must, task.name, task.kind == "perplexity")
            for must in musts
            for task in self.evaluate.tasks
            if task.name not in ungated
        ):
            raise ValueError("gate: no must is asked of any evaluation task, so that everything would pass")
        if self.gate.before_quantizing and not any(must.compare == "trained vs base" for must in musts):
            raise ValueError(
                "gate.before_quantizing: no must compares trained vs base, so nothing would be judged then"
            )
        return self
