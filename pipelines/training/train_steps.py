"""The steps of a run, one after another, and the way back where a loss does not stand (guard.py decides it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from cluster.artifacts import Incident, LossPoint
from pipelines.config import TrainConfig
from pipelines.training import layout
from pipelines.training.batches import Batches
from pipelines.training.checkpoint import Record
from pipelines.training.energy import Meter
from pipelines.training.grpo import Answers
from pipelines.training.guard import WINDOW, Kept, data_step, suspects, trouble, way_back
from pipelines.training.losses import Loss, loss_of
from pipelines.training.pipeline import pipelined_step
from pipelines.training.private_examples import Examples
from pipelines.training.private_step import private_step
from pipelines.training.schedule import learning_rate
from pipelines.training.step import Clock, Step, optimizer_step

Data = Batches | Examples | Answers
"""This rank's share of what there is to learn from."""


class Checkpoints(Protocol):
    """Those of the run, as far as they are kept."""

    def kept(self) -> Sequence[Kept]:
        """In the order in which they were written."""

    def read(self, engine: Any, place: int) -> Record:
        """Load the one at that place into the engine."""


class Diverged(Exception):
    """The loss is lost for good."""


def train_steps(
    engine: Any,
    config: TrainConfig,
    batches: Data,
    record: Record,
    checkpoints: Checkpoints,
    *,
    teacher: Any = None,
    meter: Meter | None = None,
) -> Iterator[tuple[Record, float]]:
    """Train to the last step; the record after each one, and the speed so far in tokens/s over all ranks.

    Args:
        checkpoints: where to go back to.
        teacher: with `distillation`.
        meter: of what the steps draw.

    Raises:
        Diverged: the loss cannot be mended by leaving a few steps' data out.
    """
    clock, loss_function = Clock(), loss_of(config.method, config.distillation, teacher)
    while record.step < config.num_steps:
        at, rate = data_step(record.step, record.skipped), learning_rate(config, record.step)
        with clock:
            done = _one_step(engine, batches, at, rate, loss_function)
        if why := trouble(done.loss, [point.loss for point in record.losses[-WINDOW:]], config.spike_deviations):
            incident = Incident(step=record.step + 1, reason=why, sequences_checksum=done.checksum)
            place, left_out = _decided(record, incident, at, config.max_skipped_steps, checkpoints.kept())
            record = _gone_back(record, checkpoints.read(engine, place), incident, left_out)
            if meter:
                meter.forget()
            continue
        clock.count(done.num_tokens)
        record = _gone_on(record, done, rate, clock.last_s, meter)
        yield record, clock.tokens_per_s
    if not layout.are_numbers(engine):  # a loss shows what the step before did, and behind the last step comes none
        raise Diverged(f"weights are no numbers behind step {record.step}, the last: lower train.learning_rate")


def _one_step(engine: Any, batches: Data, step: int, rate: float, loss_function: Loss) -> Step:
    if isinstance(batches, Examples):
        return private_step(engine, batches, step, rate, loss_function)
    if hasattr(engine, "stages"):
        assert isinstance(batches, Batches), "TrainConfig refuses `parallel` with grpo"
        return pipelined_step(engine, batches, step, rate)
    done = optimizer_step(engine, batches, step, rate, loss_function)
    return done._replace(reward=batches.figures.get("reward")) if isinstance(batches, Answers) else done


def _gone_on(record: Record, done: Step, rate: float, took_s: float, meter: Meter | None) -> Record:
    point = LossPoint(
        step=record.step + 1,
        loss=done.loss,
        learning_rate=rate,
        num_tokens=done.num_tokens + (record.losses[-1].num_tokens if record.losses else 0),
        sequences_checksum=done.checksum,
        epsilon=done.epsilon,
        reward=done.reward,
    )
    changes = {
        "step": record.step + 1,
        "losses": (*record.losses, point),
        "trained_s": record.trained_s + took_s,
        "energy_j": record.drawn(meter.joules(), meter.basis) if meter else None,
        "energy_basis": meter.basis if meter else None,
    }
    # Not `replace`, which looks at every loss of the run anew: a step would take longer the later it comes.
    return record.model_copy(update=changes)


def _decided(
    record: Record, incident: Incident, at: int, max_skipped: int, kept: Sequence[Kept]
) -> tuple[int, tuple[int, ...]]:
    """Where to go back to, as a place in `kept`, and the numbers of the data to leave out from then on."""
    found, before = f"{incident.reason} at step {incident.step}", record.incidents
    left_out = suspects(incident.step, at, before, record.skipped)
    if len(record.skipped) + len(left_out) > max_skipped:
        raise Diverged(
            f"{found}, where the data of {len(record.skipped)} step(s) was left out before: lower train.learning_rate"
        )
    place = way_back(kept, incident.step, before)
    if place is None:
        where = "before the first checkpoint" if not kept else "and there is no checkpoint from before the harm"
        raise Diverged(f"{found}, {where}: lower train.learning_rate or train.checkpoint_every_steps")
    return place, left_out


def _gone_back(record: Record, good: Record, incident: Incident, left_out: tuple[int, ...]) -> Record:
    """The record of a good checkpoint, which from now on leaves that data out."""
    incidents = (*record.incidents, incident.replace(back_to_step=good.step))
    return good.replace(skipped=(*record.skipped, *left_out), incidents=incidents)
