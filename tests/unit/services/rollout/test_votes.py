"""Thumbs as evidence: whose count, at which level, and what they do to a rollout from the vote to the decision."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.feedback import Thumb
from cluster.storage import LocalStorage
from services.config import RolloutConfig, StepConfig
from services.contract import Role
from services.rollout import votes
from services.rollout.evidence import EvidenceStore
from services.rollout.findings import Evidence, Finding
from services.rollout.looks import stored_looks
from services.rollout.plan import plan
from services.rollout.policy import MIN_CANARY_VOTES, harm_level, level_of
from services.rollout.replay import replay
from services.rollout.status import Decision, RolloutStatus
from services.rollout.summary import lines, summary
from services.rollout.votes import Ballot, UserVote
from tests.unit.services.rollout.world import CANDIDATE, CONFIG, STABLE, World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JUDGED = RolloutConfig(feedback=True)
FIRST = Decision(action="set_weight", verdict="inconclusive", reason="started", message="", weight_percent=5, at=NOW)
STATUS = RolloutStatus(
    id="r2", name="m", candidate="m-2", stable="m-1", config=JUDGED, weight_percent=5, started_at=NOW, step_started_at=NOW,
    decisions=(FIRST,), weight_applied_at=NOW,
)  # fmt: skip


def vote(user: float, thumb: Thumb = "up", role: Role = "canary", request_id: str = "", **more: object) -> UserVote:
    return UserVote(
        request_id=request_id or str(user), revision={"stable": "m-1", "canary": "m-2"}[role], role=role, bucket=user,
        thumb=thumb, at=NOW, rollout="r2",
    ).replace(**more)  # fmt: skip


def counted(store: EvidenceStore) -> tuple[int, int]:
    """Votes that count, of stable and of the canary."""
    found = feedback_of(store.look(STATUS, NOW))
    return found.num_stable, found.num_canary


def feedback_of(evidence: Evidence) -> Finding:
    return next(finding for finding in evidence.findings if finding.metric == "feedback")


# --- who counts ---------------------------------------------------------------------------------------------------------------


def test_a_user_counts_once_on_whichever_side_and_the_same_request_once() -> None:
    ballot = Ballot()
    for one in (
        vote(0.1, "down", request_id="a"),
        vote(0.1, "down", request_id="a"),
        vote(0.1, "down", request_id="b"),
    ):
        ballot.add(one)
    ballot.add(vote(0.1, role="stable", request_id="c"))  # before a growing weight moved it, say
    ballot.add(vote(0.2))
    assert [(one.bucket, one.request_id) for one in ballot.take()] == [(0.1, "a"), (0.2, "0.2")]
    ballot.add(vote(0.1, "up", request_id="a"))
    assert ballot.take() == []


def test_until_a_look_has_seen_it_a_user_may_think_better_of_a_vote() -> None:
    ballot = Ballot()
    ballot.add(vote(0.1, "down", request_id="a"))
    ballot.add(vote(0.1, "up", request_id="a"))
    ballot.add(vote(0.1, "down", request_id="b"))
    assert [one.thumb for one in ballot.take()] == ["up"]


@pytest.mark.parametrize(
    "other",
    [
        vote(0.3, rollout="r1"),  # placed by an earlier rollout of the same candidate: late, and no evidence here
        vote(0.3, rollout=""),
        vote(0.3, revision="m-0"),
        vote(0.3, role="stable", revision="m-2"),
    ],
    ids=["an earlier rollout's", "before any rollout", "another revision's", "the candidate, as stable"],
)
def test_a_vote_on_what_this_rollouts_revisions_did_not_answer_is_no_evidence(
    storage: LocalStorage, other: UserVote
) -> None:
    store = EvidenceStore(storage, STATUS)
    for one in (other, vote(0.1, role="stable"), vote(0.2)):
        store.add_vote(one)
    assert counted(store) == (1, 1)


def test_where_votes_are_no_evidence_none_is_kept(storage: LocalStorage) -> None:
    status = STATUS.replace(config=RolloutConfig())
    store = EvidenceStore(storage, status)
    store.add_vote(vote(0.1, "down"))
    seen = store.look(status, NOW)
    assert (seen.look, {finding.metric for finding in seen.findings}) == (0, {"errors", "ttft", "tpot", "quality"})


@pytest.mark.parametrize("saved", [False, True], ids=["from the votes", "from a snapshot"])
def test_a_killed_controller_knows_who_has_voted(storage: LocalStorage, saved: bool) -> None:
    store = EvidenceStore(storage, STATUS)
    for number in range(40):
        store.add_vote(vote(number / 40, "down" if number % 3 == 0 else "up", "stable" if number % 2 else "canary"))
        seen = store.look(STATUS, NOW + timedelta(seconds=number))
    store.flush()
    if saved:
        store.save()
    again = EvidenceStore(storage, STATUS)
    assert again.look(STATUS, NOW) == seen
    again.add_vote(vote(0.5, "down", request_id="another"))
    assert again.look(STATUS, NOW).look == 40
    assert feedback_of(seen).log_harm != 0
    kept = [one for look in stored_looks(storage, STATUS) for one in look.votes]
    assert kept[1] == vote(1 / 40, role="stable").replace(rollout=None)
    (path,) = (storage.root / "rollouts/m/r2").glob("votes-*.parquet")
    assert pq.read_table(path).column_names == [
        *("look", "window", "looked_at", "request_id", "revision", "role", "thumb", "bucket", "at")
    ]


# --- the level and the aim ----------------------------------------------------------------------------------------------------


def test_with_votes_every_metric_has_a_fifth_of_alpha_and_without_a_quarter() -> None:
    assert harm_level(RolloutConfig()) == pytest.approx(0.01 / 4)
    assert harm_level(JUDGED) == pytest.approx(0.01 / 5)
    copies = JUDGED.replace(steps=(StepConfig(weight_percent=0), *JUDGED.steps))
    findings = [Finding(metric=metric) for metric in copies.metrics]
    whole = sum(level_of(copies, one) for one in [*findings, Finding(metric="errors", copies=True)])
    assert whole <= copies.alpha


def crowds(stable: float, canary: float, num_looks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Highest log e-values ever reached, for harm and for passing, in 400 rollouts."""
    generator, num = np.random.default_rng(seed), 400
    test, harm, passed = votes.start(JUDGED, num), np.zeros(num), np.zeros(num)
    for _ in range(num_looks):
        n_s, n_c = generator.poisson(4, num), generator.poisson(1, num)
        test = test.take((n_s, generator.binomial(n_s, stable)), (n_c, generator.binomial(n_c, canary)))
        harm, passed = np.maximum(harm, test.log_harm), np.maximum(passed, test.log_pass[:, 0])
    return harm, passed


@pytest.mark.parametrize("stable", [0.02, 0.1, 0.4])
def test_a_canary_on_the_margin_is_rolled_back_with_at_most_the_level(stable: float) -> None:
    harm, _ = crowds(stable, stable + 0.05, 300, 1)
    assert (harm >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_from_10_to_25_percent_is_found_and_its_absence_is_proven() -> None:
    harm, passed = crowds(0.1, 0.25, 800, 2)
    assert (harm >= -math.log(harm_level(JUDGED))).mean() > 0.95
    assert (passed >= math.log(20)).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    _, passed = crowds(0.1, 0.1, 300, 3)
    assert (passed >= math.log(20)).mean() > 0.95


def test_votes_that_count_are_a_fresh_draw_of_one_crowd_though_those_who_vote_often_are_harder_to_please() -> None:
    """A quarter of the users vote in every round and dislike half of what they see, the others hardly ever and a tenth. The weight
    grows; among the votes that count the share of thumbs down stays alike on both sides, round by round."""
    generator, num_users, rounds = np.random.default_rng(4), 40_000, (0.05, 0.05, 0.25, 0.25, 0.5, 0.5)
    place, often = generator.random(num_users), generator.random(num_users) < 0.25
    ballot, sides = Ballot(), []
    for number, weight in enumerate(rounds):
        voting = np.flatnonzero(generator.random(num_users) < np.where(often, 0.9, 0.1))
        for user in voting:
            down = generator.random() < (0.5 if often[user] else 0.1)
            side: Role = "canary" if place[user] < weight else "stable"
            ballot.add(vote(float(place[user]), "down" if down else "up", side, f"{number} {user}"))
        sides.append(votes.tally(ballot.take()))
    for (n_s, down_s), (n_c, down_c) in sides:
        spread = math.sqrt(0.24 * (1 / n_s[0] + 1 / n_c[0]))
        assert abs(down_c[0] / n_c[0] - down_s[0] / n_s[0]) < 3.5 * spread


# --- the recipe and the plan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": [{"weight_percent": 5, "prove": ["feedback"]}]}, "set rollout.feedback: true"),
        ({"feedback": True, "steps": [{"weight_percent": 0, "prove": ["feedback"]}, {"weight_percent": 5}]}, "nobody votes"),
        ({"feedback": True, "steps": [{"weight_percent": 5}, {"weight_percent": 100, "prove": ["feedback"]}]}, "100 %"),
        ({"feedback": True, "down_effect_percent": 5}, "down_effect_percent must lie beyond the margin"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_mean_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RolloutConfig.model_validate(given)


def test_the_plan_tells_votes_where_they_count() -> None:
    assert {proof.metric for step in plan(RolloutConfig(), 50) for proof in step.proofs} == {
        "errors",
        "ttft",
        "quality",
    }
    step = StepConfig(weight_percent=50, prove=("errors", "feedback"))
    (planned,) = plan(JUDGED.replace(steps=(step,)), 50)
    (thumbs,) = (proof for proof in planned.proofs if proof.metric == "feedback")
    assert thumbs.effect == 0.15
    assert thumbs.requests_to_pass is not None
    assert 20 < thumbs.requests_to_pass < thumbs.requests_to_fail < 500


# --- in a rollout -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def cast(world: World, rollout: str, number: int, thumb: Thumb, role: Role, user: float | None = None) -> None:
    revision = STABLE if role == "stable" else CANDIDATE
    bucket = number / 1000 if user is None else user
    world.loop.vote(UserVote(request_id=str(number), revision=revision, role=role, bucket=bucket, thumb=thumb, at=world.now,
                             rollout=rollout))  # fmt: skip


LONG = CONFIG.replace(
    feedback=True, steps=(StepConfig(weight_percent=10, min_requests=10**6, min_duration_s=4),), step_timeout_s=10**6
)


def test_users_take_out_a_canary_that_they_dislike_and_a_replay_agrees(world: World) -> None:
    rollout = world.start(LONG)
    world.run(2)
    for number in range(120):
        cast(world, rollout, number, "down" if number % 10 == 0 else "up", "stable")
        if number % 2:
            cast(world, rollout, 500 + number, "down" if number % 4 == 1 else "up", "canary")
        world.turn()
        if number == 25:
            assert "users' votes as evidence: canary 5" in "\n".join(lines(summary(world.storage, world.status)))
        if number == 30:
            world.loop = world.process(world.storage)  # killed, and begun anew
    world.run(10)
    last = world.status.decisions[-1]
    assert (world.status.phase, last.reason, last.verdict) == ("rolled_back", "feedback", "failed")
    assert "users who voted on the canary gave thumbs down, stable 9.5% of 74" in last.message
    assert "5 points more are allowed" in last.message
    assert last.numbers["feedback_canary_counted"] >= MIN_CANARY_VOTES
    found = list(replay(world.storage, world.status))
    assert found
    assert all(one.same for one in found)


def test_one_user_takes_out_nobody_however_often_it_votes_nor_do_a_few(world: World) -> None:
    rollout = world.start(LONG)
    world.run(2)
    for number in range(100):
        cast(world, rollout, number, "up", "stable")
        cast(world, rollout, 500 + number, "down", "canary", user=0.999)
        if number < MIN_CANARY_VOTES - 2:
            cast(world, rollout, 800 + number, "down", "canary")
        world.turn()
    status = world.status
    assert status.phase == "progressing"
    assert status.last_look is not None
    assert status.last_look.numbers["feedback_canary_counted"] == MIN_CANARY_VOTES - 1
