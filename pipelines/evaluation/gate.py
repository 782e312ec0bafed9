"""The gate: a pure function of paired samples and requirements. No heavy imports.

One rule for every comparison, the rollouts' (docs/rollouts.md): harm beyond the margin established is failed, a harm of the effect
excluded is passed, neither is inconclusive. Failing is a union (one is enough), so its level is shared by Holm's procedure (Holm
1979, Scandinavian Journal of Statistics 6) among the tests of a priority. Passing is an intersection (all must), which keeps its
level without sharing (Berger 1982, Technometrics 24).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.artifacts import Check, Finding, Outcome
from pipelines.config import GateConfig, RequirementConfig, asked_of
from pipelines.evaluation.explain import finding, recovery
from pipelines.evaluation.paired.sample import MAX_ITEMS, Sample, highest, lowest
from pipelines.evaluation.wording import both, identical


@dataclass(frozen=True)
class Pair:
    """One task's figures on two models, and their items."""

    task: str
    metric: str
    old: float
    new: float
    method: str
    sample: Sample
    per: str = "task"
    """What its items are a slice by: a requirement is asked of the pairs of its own `per`."""
    slice: str = ""
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        return f"{self.task} ({self.per} {self.slice})" if self.slice else self.task

    @property
    def is_perplexity(self) -> bool:
        return self.metric == "perplexity"

    @property
    def recovery(self) -> float:
        """new / old, of what is better when lower old / new. A model that scored nothing leaves nothing to lose."""
        old, new = (self.old, self.new) if self.higher_is_better else (self.new, self.old)
        return new / old if old else 1.0


@dataclass(frozen=True)
class Question:
    """A requirement asked of one pair."""

    requirement: RequirementConfig
    pair: Pair

    @property
    def is_tested(self) -> bool:
        return self.requirement.min_recovery_percent is None


def judge(config: GateConfig, pairs: Mapping[str, Sequence[Pair]]) -> tuple[Check, ...]:
    """One check for each requirement and task it is asked of, in the recipe's order.

    Args:
        pairs: comparison ("trained vs base", ...) -> its tasks.
    """
    questions = [question for asked in config.requirements for question in _questions(asked, pairs[asked.compare])]
    p_margins = [_p_margin(question) for question in questions]
    return _checks(config, questions, p_margins, _adjusted(questions, p_margins))


def judge_trained(config: GateConfig, pairs: Sequence[Pair]) -> tuple[Check, ...]:
    """The checks of trained vs base, before there is a quantized model: none of them is failed that might not be in the end.

    Of the other tests that share alpha with them nothing is known but their number, for they are of the same tasks. Whatever they
    come to, Holm's procedure multiplies no p by more than the number of all tests of its priority (Bonferroni).
    """
    everything = [question for asked in config.requirements for question in _questions(asked, pairs)]
    questions = [one for one in everything if one.requirement.compare == "trained vs base"]
    nums = Counter(one.requirement.priority for one in everything if one.is_tested)
    p_margins = [_p_margin(question) for question in questions]
    most = [min(1.0, nums[one.requirement.priority] * p) for one, p in zip(questions, p_margins, strict=True)]
    return _checks(config, questions, p_margins, most)


def is_refused(config: GateConfig, findings: Sequence[Finding]) -> bool:
    """Whether the model cannot pass, whatever the findings are that are still to come."""
    missed = {one.outcome for one in findings if one.priority == "must"} - {"passed"}
    return "failed" in missed or (bool(missed) and config.inconclusive_must == "block")


def outcome_of(checks: Sequence[Finding]) -> Outcome:
    """The musts together."""
    musts = {check.outcome for check in checks if check.priority == "must"}
    if "failed" in musts:
        return "failed"
    return "passed" if musts == {"passed"} else "inconclusive"


def is_let_through(config: GateConfig, outcome: Outcome) -> bool:
    return outcome == "passed" or (outcome == "inconclusive" and config.inconclusive_must == "publish")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: rejecting those at most alpha errs anywhere with a chance of at most alpha, however they depend."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _questions(asked: RequirementConfig, pairs: Sequence[Pair]) -> list[Question]:
    return [
        Question(asked, pair)
        for pair in pairs
        if pair.per == asked.per and asked_of(asked, pair.task, pair.is_perplexity)
    ]


def _checks(
    config: GateConfig, questions: Sequence[Question], p_margins: Sequence[float], adjusted: Sequence[float]
) -> tuple[Check, ...]:
    return tuple(
        _tested(config, question, p, p_adjusted) if question.is_tested else _estimated(config, question)
        for question, p, p_adjusted in zip(questions, p_margins, adjusted, strict=True)
    )


def _p_margin(question: Question) -> float:
    return question.pair.sample.p_at_most(question.requirement.margin_percent / 100) if question.is_tested else 1.0


def _adjusted(questions: Sequence[Question], p_values: Sequence[float]) -> list[float]:
    """Holm's within each priority: what could hold does not make it harder to see that a must fails."""
    adjusted = [1.0] * len(questions)
    for priority in ("must", "should", "could"):
        family = [i for i, q in enumerate(questions) if q.is_tested and q.requirement.priority == priority]
        for index, p in zip(family, holm([p_values[i] for i in family]), strict=True):
            adjusted[index] = p
    return adjusted


def _tested(config: GateConfig, question: Question, p_margin: float, p_adjusted: float) -> Check:
    asked, sample = question.requirement, question.pair.sample
    margin, effect = asked.margin_percent / 100, asked.effect_percent / 100
    p_effect = sample.p_at_least(effect)
    outcome: Outcome = "inconclusive"
    if p_adjusted <= config.alpha:
        outcome = "failed"
    elif p_effect <= config.beta:
        outcome = "passed"
    # Between margin and effect either verdict may come: the limit that is farther off takes fewer items.
    found = sample.harm
    limit, level = (margin, config.alpha) if found > (margin + effect) / 2 else (effect, config.beta)
    return _check(
        config,
        question,
        outcome,
        p_margin=p_margin,
        p_margin_adjusted=p_adjusted,
        p_effect=p_effect,
        num_items_if_equal=_whole(sample.items_needed(effect, 0.0, config.beta, config.power)) if effect > 0 else None,
        num_items_if_as_found=_whole(sample.items_needed(limit, found, level, config.power)),
    )


def _estimated(config: GateConfig, question: Question) -> Check:
    wanted = question.requirement.min_recovery_percent
    assert wanted is not None
    return _check(config, question, "passed" if 100 * question.pair.recovery >= wanted - 1e-9 else "failed")


def _check(config: GateConfig, question: Question, outcome: Outcome, **figures: float | int | None) -> Check:
    asked, pair = question.requirement, question.pair
    check = Check(
        name=f"{pair.name}: {asked.compare}",
        task=pair.task,
        metric=pair.metric,
        priority=asked.priority,
        outcome=outcome,
        message="",
        method=pair.method if question.is_tested else "",
        num_items=pair.sample.num_items,
        num_different=pair.sample.num_different,
        old=pair.old,
        new=pair.new,
        harm=100 * pair.sample.harm,
        harm_low=100 * lowest(pair.sample, config.alpha),
        harm_high=100 * highest(pair.sample, config.beta),
        margin=asked.margin_percent if question.is_tested else 0.0,
        effect=asked.effect_percent if question.is_tested else 0.0,
        **figures,  # type: ignore[arg-type]
    )
    said = finding(check) if question.is_tested else recovery(100 * pair.recovery, asked.min_recovery_percent or 0)
    old, new = both(pair.old, pair.new)
    same = f" ({told})" if (told := identical(check.num_items, check.num_different)) else ""
    return check.replace(message=f"{check.name}: {pair.metric} {old} to {new}{same}, {said}")


def _whole(items: float) -> int | None:
    return math.ceil(items) if items < MAX_ITEMS else None
