"""What the records of a rollout come to, look by look: a fold from looks to Evidence. Pure.

    judge = Judge.start(config);  judge = judge.see(look), for each look in order;  judge.evidence

The same looks give the same evidence to the last bit, which a restarted controller and `serinus canary replay` rely on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from services.config import RolloutConfig
from services.contract import PairedScore, RequestRecord, Role
from services.rollout import votes
from services.rollout.counting import Tally, answers, until_harm, while_well
from services.rollout.errors import ErrorTest
from services.rollout.findings import Counts, Evidence, Finding
from services.rollout.late import LATE_SHARE
from services.rollout.latency import LatencyTest, Waits, stratum
from services.rollout.policy import harm_level
from services.rollout.quality import QualityTest
from services.rollout.votes import UserVote

Harms = tuple[tuple[str, int], ...]
"""How answers were harmful, and how many; the most frequent first."""


@dataclass(frozen=True)
class Look:
    """What came since the look before."""

    number: int
    window: int
    """Number of the stretch of one weight."""
    at: datetime
    alone: bool
    """Everybody is on the canary: its errors are held against stable's past, and its waits are not judged."""
    records: tuple[RequestRecord, ...] = ()
    scores: tuple[PairedScore, ...] = ()
    votes: tuple[UserVote, ...] = ()
    copies: bool = False
    """Nobody is on the canary: it is judged by its replies to copied requests."""


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
    copies: ErrorTest
    """For harm, by replies to copied requests: a stream of its own, with a share of the level of its own."""
    copy_proofs: ErrorTest
    ttft: LatencyTest
    tpot: LatencyTest
    quality: QualityTest
    votes: ErrorTest
    """Of thumbs down among users who vote; only where the recipe asks for it does anything come here."""
    look: int = 0
    window: int = 0
    stable: Counts = field(default_factory=Counts)
    canary: Counts = field(default_factory=Counts)
    before: Counts = field(default_factory=Counts)
    """Stable's, of the newest stretch before in which it had requests."""
    harmed: dict[Role, frozenset[float]] = field(default_factory=_nobody)
    """Users that met harm in this stretch, or whose last answer before it was harmful."""
    failing: dict[Role, frozenset[float]] = field(default_factory=_nobody)
    """Users whose last answer was harmful, in whatever stretch."""
    harms: Harms = ()
    """Of the canary's answers that count for harm, in the whole rollout."""
    copy_harms: Harms = ()
    carriers: dict[str, frozenset[float]] = field(default_factory=lambda: {"users": frozenset(), "copies": frozenset()})
    """Users who show harm of the canary, in the whole rollout: by its answers to them, and by its replies to copies."""

    @staticmethod
    def start(config: RolloutConfig) -> Judge:
        c = config
        waits = c.margin("ttft"), c.effect("ttft"), c.effects("ttft")
        errors = ErrorTest.start(c.margin("errors"), c.effect("errors"), c.effects("errors"))
        return Judge(
            config,
            errors,
            errors,
            errors,
            errors,
            LatencyTest.start(*waits, c.latency_floor_s),
            LatencyTest.start(*waits, c.tpot_floor_s),
            QualityTest.start(c.margin("quality"), c.effect("quality"), c.effects("quality"), late_share=LATE_SHARE),
            votes.start(c),
        )

    def enter(self, window: int) -> Judge:
        """The judge in that stretch; a new one begins its own counts and proofs."""
        if window <= self.window:
            return self
        # Who has had no good answer since the last harm counts on neither side: it fails on any revision, or is known to fail here.
        # Else each stretch would count a key that always fails once more, and a few such keys condemn the canary they are on.
        still = frozenset().union(*self.failing.values())
        before = self.stable if self.stable.num_requests else self.before
        harmed: dict[Role, frozenset[float]] = {"stable": still, "canary": still}
        begun = replace(self, window=window, stable=Counts(), canary=Counts(), before=before, harmed=harmed)
        # Once for each stretch, though nobody looked at some: the state depends on the window's number, not on who looked when.
        for _ in range(window - max(self.window, 1)):
            begun = replace(
                begun,
                errors=begun.errors.restart(),
                proofs=begun.proofs.restart(),
                copies=begun.copies.restart(),
                copy_proofs=begun.copy_proofs.restart(),
                ttft=begun.ttft.restart(),
                tpot=begun.tpot.restart(),
                quality=begun.quality.restart(),
            )
        return begun

    def see(self, look: Look) -> Judge:
        """This judge after `look`."""
        judge = self.enter(look.window)
        records = [record for record in look.records if _counts(record, look.copies)]
        found = answers(records, judge.ttft.patience_s)
        harmed, failing = _users(judge.harmed, look.copies), _users(judge.failing, look.copies)
        errors, proofs = until_harm(found, harmed), while_well(found, failing)
        scores = np.array([score.canary - score.stable for score in look.scores])
        judge = replace(
            judge,
            look=look.number,
            stable=judge.stable.plus("stable", records, proofs["stable"].num),
            canary=judge.canary.plus("canary", records, proofs["canary"].num),
            harmed={role: frozenset(users) for role, users in harmed.items()},
            failing={role: frozenset(users) for role, users in failing.items()},
            quality=judge.quality.take(np.zeros(len(scores), int), scores) if len(scores) else judge.quality,
            votes=judge.votes.take(*votes.tally(look.votes)) if look.votes else judge.votes,
        )
        if look.copies:  # waits are not judged: an idle canary answers sooner, and its cache is cold
            return judge._copied(errors, proofs)
        return judge._served(errors, proofs, records, harm_level(judge.config) if look.alone else None)

    def _copied(self, errors: Mapping[Role, Tally], proofs: Mapping[Role, Tally]) -> Judge:
        return replace(
            self,
            copies=self.copies.take(errors["stable"].arrays, errors["canary"].arrays),
            copy_proofs=self.copy_proofs.take(proofs["stable"].arrays, proofs["canary"].arrays),
            copy_harms=_more(self.copy_harms, errors["canary"]),
            carriers=_with(self.carriers, "copies", errors["canary"]),
        )

    def _served(
        self,
        errors: Mapping[Role, Tally],
        proofs: Mapping[Role, Tally],
        records: list[RequestRecord],
        alone: float | None,
    ) -> Judge:
        judge = replace(
            self,
            errors=self.errors.take(errors["stable"].arrays, errors["canary"].arrays, alone),
            proofs=self.proofs.take(proofs["stable"].arrays, proofs["canary"].arrays, alone),
            harms=_more(self.harms, errors["canary"]),
            carriers=_with(self.carriers, "users", errors["canary"]),
        )
        if alone is not None:  # waits are not judged: stable's were under a part of this load
            return judge
        ttft, tpot = _ttft(records), _tpot(records)
        return replace(
            judge,
            ttft=self.ttft.take(ttft) if len(ttft.cell) else self.ttft,
            tpot=self.tpot.take(tpot) if len(tpot.cell) else self.tpot,
        )

    @property
    def evidence(self) -> Evidence:
        """What decisions rest on."""
        ratio = self.stable.num_requests / max(1, self.canary.num_requests)
        findings = [
            _of_errors(self.errors, self.proofs, ratio, self.harms).replace(num_users=len(self.carriers["users"])),
            _of_waits("ttft", self.ttft, ratio),
            _of_waits("tpot", self.tpot, ratio),
            _of_scores(self.quality),
        ]
        if self.config.begins_with_copies:
            by_copies = _of_errors(self.copies, self.copy_proofs, ratio, self.copy_harms, copies=True)
            findings.append(by_copies.replace(num_users=len(self.carriers["copies"])))
        if self.config.feedback:
            findings.append(_of_votes(self.votes, ratio))
        sides = {"stable": self.stable, "canary": self.canary, "stable_before": self.before}
        return Evidence(look=self.look, **sides, findings=tuple(findings))


def _counts(record: RequestRecord, copies: bool) -> bool:
    """Of copies those two that chance told apart; else all but late copies."""
    return record.shadow is not None if copies else record.shadow != "copy"


def _users(known: Mapping[Role, frozenset[float]], shared: bool) -> dict[Role, set[float]]:
    """Copies are of all users' requests, so each user is on both sides, and counts on both or on neither: stable gets most of a
    user's requests, and would lose the unlucky users sooner."""
    if shared:
        both = set(known["stable"] | known["canary"])
        return {"stable": both, "canary": both}
    return {role: set(users) for role, users in known.items()}


def _more(known: Harms, seen: Tally) -> Harms:
    return tuple((Counter(dict(known)) + seen.harms).most_common()) if seen.harms else known


def _with(known: dict[str, frozenset[float]], by: str, seen: Tally) -> dict[str, frozenset[float]]:
    return {**known, by: known[by] | seen.harmed} if seen.harmed else known


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


def _of_errors(test: ErrorTest, proofs: ErrorTest, ratio: float, harms: Harms, copies: bool = False) -> Finding:
    seen = test.rates.closed
    return Finding(
        metric="errors",
        copies=copies,
        harms=harms,
        num_stable=int(seen.num_stable[0]),
        num_canary=int(seen.num_canary[0]),
        log_harm=float(test.log_harm[0]),
        effects=test.excluded,
        log_pass=tuple(proofs.log_pass[0].tolist()),
        growth=tuple(proofs.pass_growth(ratio)[0].tolist()),
        stable=float(seen.hits_stable[0] / max(1, seen.num_stable[0])),
        canary=float(seen.hits_canary[0, 0] / max(1, seen.num_canary[0])),
    )


def _of_votes(test: ErrorTest, ratio: float) -> Finding:
    return _of_errors(test, test, ratio, ()).replace(metric="feedback")


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
