"""The turns of a run when a loss does not stand, the steps themselves being given."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from pipelines.config import TrainConfig
from pipelines.training import train_steps as steps
from pipelines.training.checkpoint import Record
from pipelines.training.energy import Meter
from pipelines.training.guard import Kept
from pipelines.training.train_steps import Diverged, Step, train_steps


class Run:
    """Steps whose loss falls slowly, but for the data numbered in `bad`; a checkpoint every 10 steps from the 10th on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bad: dict[int, float], **fields: Any) -> None:
        self.bad, self.taken, self.every = bad, list[int](), 10
        self.written: list[Record] = []
        self.lost: set[int] = set()
        """Data that leaves the weights without numbers: every loss after it is none, but for weights read from before."""
        self.harmed = False
        self.config = TrainConfig(num_steps=40, warmup_steps=0, **fields)
        monkeypatch.setattr(steps, "optimizer_step", self._step)
        monkeypatch.setattr(steps.layout, "are_numbers", lambda engine: not self.harmed)

    def _step(self, engine: Any, batches: Any, at: int, rate: float, loss: Any) -> Step:
        self.taken.append(at)
        if self.harmed:
            return Step(math.nan, num_tokens=10, checksum=at)
        self.harmed = at in self.lost
        return Step(self.bad.get(at, 3.0 - 0.01 * at), num_tokens=10, checksum=at)

    basis = "an ampere meter"

    def joules(self) -> float:
        """One a step."""
        drawn, self.metered = len(self.taken) - self.metered, len(self.taken)
        return drawn

    def forget(self) -> None:
        self.joules()

    def finish(self) -> Record:
        done, self.metered = Record(), 0
        meter = cast(Meter, self)
        for done, _ in train_steps(SimpleNamespace(), self.config, SimpleNamespace(), Record(), self, meter=meter):
            if done.step % self.every == 0:
                self.written = [*self.written, done][-3:]
                self.weights[done.step, len(done.incidents)] = self.harmed
        return done

    weights: ClassVar[dict[tuple[int, int], bool]] = {}

    def kept(self) -> list[Kept]:
        return [Kept(record.step, len(record.incidents)) for record in self.written]

    def read(self, engine: Any, place: int) -> Record:
        record = self.written[place]
        self.harmed = self.weights[record.step, len(record.incidents)]
        return record


def test_a_run_goes_back_and_leaves_the_data_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, {13: math.nan, 32: 9.0})
    record = run.finish()
    assert run.taken == [*range(14), 10, 11, 12, *range(14, 33), *range(31, 32), *range(33, 42)]
    assert [point.sequences_checksum for point in record.losses] == [n for n in range(42) if n not in (13, 32)]
    assert record.skipped == (13, 32)
    first, second = record.incidents
    assert (first.step, first.back_to_step, first.reason) == (14, 10, "the loss is not a number")
    assert (second.step, second.back_to_step) == (32, 30)
    assert second.reason.startswith("the loss rose to 9.000")
    assert record.losses[-1].num_tokens == 40 * 10
    assert (record.energy_j, record.energy_basis) == (40, run.basis)


def test_a_step_does_not_look_at_all_losses_before_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    validate = Record.model_validate

    def counted(given: Any, **asked: Any) -> Record:
        looked_at.append(len(given["losses"]))
        return validate(given, **asked)

    run = Run(monkeypatch, {})
    monkeypatch.setattr(Record, "model_validate", counted)
    record = run.finish()
    assert looked_at == []
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_spikes_pass_where_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Run(monkeypatch, {32: 9.0}, spike_deviations=None).finish().incidents == ()


def test_a_checkpoint_that_holds_the_harm_is_not_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data numbered 19 breaks the weights in step 20, whose loss is still good, and they are written. The loss of step 21
    shows it: back to 10, past 20. It comes again, with other data: so it was the step before, whose data goes as well."""
    run = Run(monkeypatch, {})
    run.lost = {19}
    record = run.finish()
    first, second = record.incidents
    assert [(one.step, one.back_to_step) for one in (first, second)] == [(21, 10), (21, 10)]
    assert set(record.skipped) == {20, 19, 21}
    assert [point.sequences_checksum for point in record.losses] == [n for n in range(43) if n not in (19, 20, 21)]
    assert not run.harmed


def test_with_a_checkpoint_at_every_step_the_one_before_the_last_is_gone_back_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, {})
    run.lost, run.every = {19}, 1
    record = run.finish()
    assert [(one.step, one.back_to_step) for one in record.incidents] == [(21, 19), (21, 19)]
    assert 19 in record.skipped
    assert record.step == 40


def test_there_is_an_end_to_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        Diverged, match=r"at step 15, where the data of 1 step\(s\) was left out before: lower train\.l"
    ):
        Run(monkeypatch, dict.fromkeys((14, 15, 16), math.nan), max_skipped_steps=2).finish()


def test_weights_that_the_last_step_broke_are_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, {})
    run.lost = {39}
    with pytest.raises(Diverged, match="weights are no numbers behind step 40, the last"):
        run.finish()


def test_nothing_to_go_back_to_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Diverged, match="at step 4, before the first checkpoint"):
        Run(monkeypatch, {3: math.inf}).finish()
