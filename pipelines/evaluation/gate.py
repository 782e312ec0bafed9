"""The gate: a pure function of three reports and the bounds. No heavy imports."""

from __future__ import annotations

from cluster.artifacts import Check, EvalReport, Score
from pipelines.config import GateConfig


def judge(config: GateConfig, base: EvalReport, trained: EvalReport, quantized: EvalReport) -> tuple[Check, ...]:
    """Hold every score of the three reports, which must be of the same tasks, against its bound."""
    checks: list[Check] = []
    for score in base.scores:
        after, small = trained.score(score.task), quantized.score(score.task)
        if score.metric == "perplexity":
            checks += [_dropped(config, score, after), _kept_perplexity(config, after, small)]
        else:
            checks.append(_recovered(config, score, small))
    return tuple(checks)


def _dropped(config: GateConfig, base: Score, trained: Score) -> Check:
    found, bound = 100 * (1 - trained.value / base.value), config.min_perplexity_drop_percent
    moved = f"fell by {found:.1f} %" if found >= 0 else f"rose by {-found:.1f} %"
    wanted = f"a fall of at least {bound:g} % wanted" if bound >= 0 else f"a rise of at most {-bound:g} % allowed"
    return Check(
        name=f"{base.task}: trained against base",
        found=found,
        bound=bound,
        passed=found >= bound,
        message=f"{base.task} {moved} with training ({base.value:.2f} to {trained.value:.2f}), {wanted}",
    )


def _kept_perplexity(config: GateConfig, trained: Score, quantized: Score) -> Check:
    found, bound = quantized.value / trained.value, config.max_quantized_perplexity_ratio
    return Check(
        name=f"{trained.task}: quantized against trained",
        found=found,
        bound=bound,
        passed=found <= bound,
        message=f"{trained.task} is {found:.3f} times the trained model's once quantized, at most {bound:g} allowed",
    )


def _recovered(config: GateConfig, base: Score, quantized: Score) -> Check:
    # A base model that scores nothing leaves nothing to lose.
    found, bound = quantized.value / base.value if base.value else 1.0, config.min_recovery
    return Check(
        name=f"{base.task}: quantized against base",
        found=found,
        bound=bound,
        passed=found >= bound,
        message=f"{base.task} keeps {100 * found:.1f} % of the base model's {base.metric} "
        f"({base.value:.3f} to {quantized.value:.3f}), at least {100 * bound:g} % wanted",
    )
