"""A canary without users, judged by its replies to copied requests: forward, back, planned, replayed; and the level of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from services.config import RolloutConfig, StepConfig
from services.contract import RequestRecord, Traffic
from services.rollout.counting import Answer, Users, until_harm
from services.rollout.errors import ErrorTest
from services.rollout.findings import Finding
from services.rollout.looks import stored_looks
from services.rollout.plan import plan
from services.rollout.policy import harm_level, level_of
from services.rollout.rates import BOUND_SHARE
from services.rollout.replay import read_rollout, replay
from tests.unit.services.rollout import world as rollouts
from tests.unit.services.rollout.world import CANDIDATE, STABLE

COPIES = StepConfig(weight_percent=0, min_requests=10, min_duration_s=4, error_effect_percent=20)
CONFIG = rollouts.CONFIG.replace(steps=(COPIES, *rollouts.CONFIG.steps))


class World(rollouts.World):
    """Of the requests while the canary has no users one in five is copied."""

    def _requests(self, traffic: Traffic) -> Iterator[RequestRecord]:
        for number, record in enumerate(super()._requests(traffic)):
            if traffic.canary is None or traffic.weight_percent:
                yield record
            elif number % 5:
                yield record.replace(shadow="beside")
            else:
                yield record
                outcome = "truncated" if self.canary_harmful else "ok"
                ttft_s = 30.0 if self.canary_slow else 0.1
                yield record.replace(
                    shadow="copy", role="canary", revision=traffic.canary, outcome=outcome, ttft_s=ttft_s, owner=""
                )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def test_a_candidate_whose_copies_are_good_gets_users_and_the_replay_agrees(world: World) -> None:
    world.start(CONFIG)
    world.run(60)
    assert [weight for _, canary, weight in world.traffic_seen if canary] == [0, 10, 50]
    decisions = world.status.decisions
    assert [(d.action, d.weight_percent) for d in decisions][-1] == ("promote", 100)
    assert "copies" in decisions[0].message
    assert "replies to copied requests harmful" in decisions[1].message
    assert decisions[1].numbers["copies_canary_counted"] >= 10
    assert "errors_canary_counted" not in decisions[1].numbers  # no user's answer is judged before there are users
    assert all(found.same for found in replay(world.storage, read_rollout(world.storage, "m")))
    assert {record.shadow for look in stored_looks(world.storage, world.status) for record in look.records} == {
        "copy",
        "beside",
        None,
    }


def test_a_candidate_whose_copies_break_is_out_before_it_has_a_user(world: World) -> None:
    world.canary_harmful = True
    world.start(CONFIG)
    world.run(40)
    assert [weight for _, canary, weight in world.traffic_seen if canary] == [0]
    last = world.status.decisions[-1]
    assert (last.action, last.reason, last.who) == ("rollback", "error_rate", "analysis")
    number = int(last.numbers["copies_canary_counted"])
    assert f"of {number} replies to copied requests harmful ({number} truncated), stable 0.00%" in last.message
    assert all(found.same for found in replay(world.storage, read_rollout(world.storage, "m")))


def test_copies_that_come_late_are_no_fault(world: World) -> None:
    """The canary is idle and its cache cold: what a copy waits says nothing of what users would."""
    world.canary_slow = True
    world.start(CONFIG)
    while world.status.step == 0:
        world.turn()
    assert world.status.phase == "progressing"
    assert not any(name.startswith(("ttft", "tpot")) for name in world.status.decisions[-1].numbers)


def test_a_killed_controller_goes_on_with_the_copies_it_had(world: World) -> None:
    world.start(CONFIG)
    for turn in range(120):
        world.turn()
        if turn % 5 == 0:
            world.loop = world.process(world.storage)
    assert world.status.phase == "promoted"
    assert all(found.same for found in replay(world.storage, read_rollout(world.storage, "m")))


def test_without_copies_such_a_step_ends_without_a_verdict(world: World) -> None:
    world._requests = lambda traffic: rollouts.World._requests(world, traffic)  # type: ignore[method-assign]
    world.start(CONFIG)
    world.run(70)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "inconclusive")
    assert "10 more copied requests" in world.status.decisions[-1].message
    assert (world.traffic.stable, world.traffic.canary) == (STABLE, None)


def test_copies_are_no_users_answers_where_no_step_is_judged_by_them(world: World) -> None:
    """A person has put the canary of an ordinary rollout to 0 %."""
    world.start()
    world.loop.set_weight(0, "ann")
    world.canary_harmful = True
    world.run(20)
    assert (world.status.phase, world.traffic.canary) == ("progressing", CANDIDATE)


def test_users_and_copies_share_the_level_for_errors() -> None:
    shares = [level_of(CONFIG, Finding(metric="errors", copies=copies)) for copies in (True, False)]
    assert sum(shares) == pytest.approx(harm_level(CONFIG) * (1 - BOUND_SHARE))
    assert level_of(rollouts.CONFIG, Finding(metric="errors")) == harm_level(CONFIG) * (1 - BOUND_SHARE)
    assert level_of(CONFIG, Finding(metric="ttft")) == level_of(rollouts.CONFIG, Finding(metric="ttft"))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"weight_percent": 0}], "copies alone promote nobody"),
        ([{"weight_percent": 0}, {"weight_percent": 100}], "leaves nobody on stable"),
        ([{"weight_percent": 0, "prove": "ttft"}, {"weight_percent": 5}], "tell nothing of waits"),
        ([{"weight_percent": 0}, {"weight_percent": 0}, {"weight_percent": 5}], "weights must grow"),
    ],
)
def test_steps_that_make_no_sense_are_refused(steps: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RolloutConfig.model_validate({"steps": steps})


def test_a_step_at_0_percent_asks_for_errors_alone() -> None:
    found = RolloutConfig.model_validate({"steps": [{"weight_percent": 0}, {"weight_percent": 5}]})
    assert [step.prove for step in found.steps] == [("errors",), ("errors", "ttft")]
    assert RolloutConfig.model_validate(found.model_dump(mode="json")) == found


def test_a_plan_reckons_with_the_copies() -> None:
    users = CONFIG.replace(steps=(COPIES.replace(weight_percent=5.0), *CONFIG.steps[1:]))
    copied, served = plan(CONFIG, 50, 0.005, 5.0)[0], plan(users, 50, 0.005)[0]
    assert (copied.weight_percent, copied.canary_per_s) == (0, served.canary_per_s)
    assert [proof.metric for proof in copied.proofs] == ["errors", "quality"]
    assert copied.proofs[0].requests_to_pass == served.proofs[0].requests_to_pass
    assert (
        served.proofs[0].requests_to_fail < copied.proofs[0].requests_to_fail < 1.5 * served.proofs[0].requests_to_fail
    )


@pytest.mark.parametrize("together", [True, False])
def test_each_user_counts_on_both_sides_or_on_neither_or_the_level_is_lost(together: bool) -> None:
    """A fifth of the users fail one time in five on either revision. Stable has most of their requests: counted apart, it would
    lose these users soon, and the canary, which has few, would look worse."""
    generator, num, tests = np.random.default_rng(1), 60, ErrorTest.start(0.005, 0.02, (0.02,), 60)
    kept: list[Users] = []
    for _ in range(num):
        both = set[float]()
        kept.append({"stable": both, "canary": both if together else set()})
    highest = np.zeros(num)
    for _ in range(40):
        counts = np.zeros((4, num))
        for rollout in range(num):
            users, copied = generator.integers(0, 200, 300), generator.random(300) < 0.1
            harmful = generator.random(300) < np.where(users < 40, 0.2, 0.0)
            seen = [
                Answer("canary" if copy else "stable", float(user), "empty" if harm else "")
                for user, copy, harm in zip(users, copied, harmful, strict=True)
            ]
            tallies = until_harm(seen, kept[rollout])
            counts[:, rollout] = [
                number
                for tally in (tallies["stable"], tallies["canary"])
                for number in (tally.num, tally.harms.total())
            ]
        tests = tests.take((counts[0], counts[1]), (counts[2], counts[3]))
        highest = np.maximum(highest, tests.log_harm)
    false = (highest >= math.log(1 / 0.05)).mean()
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num) if together else false > 0.2
