"""What the records of a rollout come to, look by look: a fold from looks to Evidence. Pure.

    judge = Judge.start(config);  judge = judge.see(look), for each look in order;  judge.evidence

The same looks give the same evidence to the last bit, which a restarted controller and `serinus canary replay` rely on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from services.config import RolloutConfig
from services.contract import HARMFUL, PairedScore, RequestRecord, Role
from services.rollout.errors import ErrorTest
from services.rollout.findings import Counts, Evidence, Finding
from services.rollout.latency import LatencyTest, Waits, stratum
from services.rollout.policy import harm_level
from services.rollout.quality import QualityTest
from services.rollout.sequential import Array


@dataclass(frozen=True)
class Look:
    """What came since the look before."""

    number: int
    window: int
    """Number of the stretch of one weight."""
    at: datetime
    alone: bool
    """Everybody is on the canary: stable is judged by its past."""
    records: tuple[RequestRecord, ...] = ()
    scores: tuple[PairedScore, ...] = ()


def _nobody() -> dict[Role, frozenset[float]]:
    return {"stable": frozenset(), "canary": frozenset()}


@dataclass(frozen=True)
class Judge:
    """The tests of one rollout, and what the present stretch has counted."""

    config: RolloutConfig
    errors: ErrorTest
    """For harm: of each user's answers those up to its first harmful one."""
    proofs: ErrorTest
    """For passing: a user counts again after its next good answer."""
    ttft: LatencyTest
    tpot: LatencyTest
    quality: QualityTest
    look: int = 0
    window: int = 0
    stable: Counts = field(default_factory=Counts)
    canary: Counts = field(default_factory=Counts)
    harmed: dict[Role, frozenset[float]] = field(default_factory=_nobody)
    """Users that met harm in this stretch."""
    failing: dict[Role, frozenset[float]] = field(default_factory=_nobody)
    """Of them those whose last answer was harmful."""

    @staticmethod
    def start(config: RolloutConfig) -> Judge:
        c = config
        waits = c.margin("ttft"), c.effect("ttft"), c.effects("ttft")
        answers = c.margin("errors"), c.effect("errors"), c.effects("errors")
        return Judge(
            config,
            ErrorTest.start(*answers),
            ErrorTest.start(*answers),
            LatencyTest.start(*waits, c.latency_floor_s),
            LatencyTest.start(*waits, c.tpot_floor_s),
            QualityTest.start(c.margin("quality"), c.effect("quality"), c.effects("quality")),
        )

    def enter(self, window: int) -> Judge:
        """The judge in that stretch; a new one begins its own counts and proofs."""
        if window <= self.window:
            return self
        begun = replace(self, window=window, stable=Counts(), canary=Counts(), harmed=_nobody(), failing=_nobody())
        # Once for each stretch, though nobody looked at some: the state depends on the window's number, not on who looked when.
        for _ in range(window - max(self.window, 1)):
            begun = replace(
                begun,
                errors=begun.errors.restart(),
                proofs=begun.proofs.restart(),
                ttft=begun.ttft.restart(),
                tpot=begun.tpot.restart(),
                quality=begun.quality.restart(),
            )
        return begun

    def see(self, look: Look) -> Judge:
        """This judge after `look`."""
        judge = self.enter(look.window)
        alone = harm_level(judge.config) if look.alone else None
        harmed = {role: set(users) for role, users in judge.harmed.items()}
        failing = {role: set(users) for role, users in judge.failing.items()}
        patience_s = judge.ttft.patience_s
        answers = {role: list(_answers(look.records, role, patience_s)) for role in harmed}
        errors = {role: _until_harm(seen, harmed[role]) for role, seen in answers.items()}
        proofs = {role: _while_well(seen, failing[role]) for role, seen in answers.items()}
        ttft, tpot = _ttft(look.records), _tpot(look.records)
        scores = np.array([score.canary - score.stable for score in look.scores])
        return replace(
            judge,
            look=look.number,
            stable=judge.stable.plus("stable", look.records, int(proofs["stable"][0][0])),
            canary=judge.canary.plus("canary", look.records, int(proofs["canary"][0][0])),
            harmed={role: frozenset(users) for role, users in harmed.items()},
            failing={role: frozenset(users) for role, users in failing.items()},
            errors=judge.errors.take(errors["stable"], errors["canary"], alone),
            proofs=judge.proofs.take(proofs["stable"], proofs["canary"], alone),
            ttft=judge.ttft.take(ttft, alone) if len(ttft.cell) else judge.ttft,
            tpot=judge.tpot.take(tpot, alone) if len(tpot.cell) else judge.tpot,
            quality=judge.quality.take(np.zeros(len(scores), int), scores) if len(scores) else judge.quality,
        )

    @property
    def evidence(self) -> Evidence:
        """What decisions rest on."""
        ratio = self.stable.num_requests / max(1, self.canary.num_requests)
        findings = (_of_errors(self.errors, self.proofs, ratio), _of_waits("ttft", self.ttft, ratio),
                    _of_waits("tpot", self.tpot, ratio), _of_scores(self.quality))  # fmt: skip
        return Evidence(look=self.look, stable=self.stable, canary=self.canary, findings=findings)


def _answers(records: Iterable[RequestRecord], role: Role, patience_s: float) -> Iterator[tuple[float, bool]]:
    """(user, whether it was harmful) of each answer of that side. Who went away without a token after more than `patience_s` was
    failed, on either side: a canary that hangs gives no answer to count. Who went away sooner tells nothing."""
    for record in records:
        left = record.outcome == "cancelled"
        hung = left and record.ttft_s is None and record.duration_s > patience_s and not record.cold
        if record.role == role and (hung or not left):
            yield record.bucket, hung or record.outcome in HARMFUL


def _until_harm(answers: Iterable[tuple[float, bool]], harmed: set[float]) -> tuple[Array, Array]:
    """(answers, harmful ones) up to each user's first harm in a stretch, which puts it among `harmed`.

    One user who retries a request that no revision can answer would otherwise condemn the canary it happens to be on: with 1 %
    of the users there one such user weighs a hundred times more than on stable. All of the user's later answers are left out,
    good ones too, so that the rate among those counted stays the rate; and on both sides alike.
    """
    num = hits = 0
    for user, harmful in answers:
        if user not in harmed:
            num, hits = num + 1, hits + harmful
            if harmful:
                harmed.add(user)
    return np.array([float(num)]), np.array([float(hits)])


def _while_well(answers: Iterable[tuple[float, bool]], failing: set[float]) -> tuple[Array, Array]:
    """The same, but after its next good answer a user counts again: where users are few, evidence would dry up otherwise.

    That good answer is not counted: whether an answer counts must be known before it is given (optional skipping), and then the
    rate among those counted is the rate. Only proofs rest on this: a user for whom many answers fail on any revision can keep a
    good canary from passing this way, and cannot condemn it.
    """
    num = hits = 0
    for user, harmful in answers:
        if user in failing:
            if not harmful:
                failing.discard(user)
            continue
        num, hits = num + 1, hits + harmful
        if harmful:
            failing.add(user)
    return np.array([float(num)]), np.array([float(hits)])


def _ttft(records: Iterable[RequestRecord]) -> Waits:
    """Who gave up before the first token waited at least so long: a hanging canary must not look fast. What stable answered in a
    canary's place waited for the canary first."""
    rows = []
    for record in records:
        if record.cold or (record.role == "stable" and record.failed_over):
            continue
        if record.ttft_s is not None:
            rows.append((record, record.ttft_s, False))
        elif record.outcome == "cancelled":
            rows.append((record, record.duration_s, True))
    return _waits(rows)


def _tpot(records: Iterable[RequestRecord]) -> Waits:
    return _waits([(record, record.tpot_s, False) for record in records if record.tpot_s is not None])


def _waits(rows: list[tuple[RequestRecord, float, bool]]) -> Waits:
    return Waits(
        cell=np.array([stratum(r.prompt_tokens, r.cached_tokens) for r, _, _ in rows], dtype=np.int64),
        canary=np.array([r.role == "canary" for r, _, _ in rows], dtype=bool),
        seconds=np.array([seconds for _, seconds, _ in rows], dtype=float),
        gave_up=np.array([gave_up for _, _, gave_up in rows], dtype=bool),
    )


def _of_errors(test: ErrorTest, proofs: ErrorTest, ratio: float) -> Finding:
    seen = test.rates.closed
    return Finding(
        metric="errors",
        num_stable=int(seen.num_stable[0]),
        num_canary=int(seen.num_canary[0]),
        log_harm=float(test.log_harm[0]),
        effects=test.excluded,
        log_pass=tuple(proofs.log_pass[0].tolist()),
        growth=tuple(proofs.pass_growth(ratio)[0].tolist()),
        stable=float(seen.hits_stable[0] / max(1, seen.num_stable[0])),
        canary=float(seen.hits_canary[0, 0] / max(1, seen.num_canary[0])),
    )


def _of_waits(metric: str, test: LatencyTest, ratio: float) -> Finding:
    seen = test.rates.closed
    num_canary = max(1.0, seen.num_canary[:, -1].sum())
    return Finding.model_validate(
        {
            "metric": metric,
            "num_stable": int(test.histogram.sum()),
            "num_canary": int(test.num_canary[0]),
            "log_harm": float(test.log_harm[0]),
            "effects": test.excluded,
            "log_pass": tuple(test.log_pass[0].tolist()),
            "growth": tuple(test.pass_growth(ratio)[0].tolist()),
            "stable": float(seen.hits_stable[:, -1].sum() / max(1.0, seen.num_stable[:, -1].sum())),
            "canary": float(seen.hits_canary[:, -1, 0].sum() / num_canary),
        }
    )


def _of_scores(test: QualityTest) -> Finding:
    return Finding(
        metric="quality",
        num_stable=int(test.num_items[0]),
        num_canary=int(test.num_items[0]),
        log_harm=float(test.log_harm[0]),
        effects=test.excluded,
        log_pass=tuple(test.log_pass[0].tolist()),
        growth=tuple(test.pass_growth[0].tolist()),
        stable=0.0,
        canary=float(test.mean[0]),
    )
