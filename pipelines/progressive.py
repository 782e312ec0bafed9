"""Progressive training: models from small to large, each foretold by those before it, and started only if that goes well.

Every model, loss and forecast is an artifact of its own: a run that was interrupted, or that a gate has ended, goes on with what
is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, Forecast, InitialModel, Manifest, Prediction, StageRun, Weights
from cluster.errors import ConfigError, GateFailed
from cluster.storage import Storage
from pipelines.config import LifecycleConfig, ProgressiveConfig, Stage, StageRunConfig
from pipelines.initial_model import count_parameters, initial_model
from pipelines.progress import say
from pipelines.training.forecast import Size, forecast
from pipelines.training.heldout_loss import Windows, heldout_loss
from pipelines.training.sizes import check_growth, short
from pipelines.training.tokens import make_tokens, tokenizer_digest
from pipelines.training.train import train

A = TypeVar("A", bound=Manifest)

VERSION = 1
"""Raise it when the same runs lead to another forecast."""


class Make(Protocol):
    """`Run.make`: the result of `build`, found or made anew as the run was asked to, and remembered under its role."""

    def __call__(self, stage: Stage, role: str, build: Callable[[], A]) -> A: ...


@dataclass
class Course:
    """The stages of a recipe on their way."""

    config: ProgressiveConfig
    runs: tuple[StageRunConfig, ...]
    sizes: list[int]
    """Parameters of each stage's model."""
    context_length: int
    dataset: Dataset
    base: Weights
    storage: Storage
    done: list[StageRun] = field(default_factory=list)
    forecast: Forecast | None = None
    """Of the stage under way; none of the first."""

    def of_stage(self, stage: int) -> list[StageRunConfig]:
        return [run for run in self.runs if run.stage == stage]

    def size_of(self, run: StageRunConfig) -> Size:
        """Whole steps: the tokens that it will have been trained on."""
        config = run.train
        return Size(self.sizes[run.stage], config.num_steps * config.total_sequences * config.sequence_length)


def train_in_stages(
    recipe: LifecycleConfig, dataset: Dataset, base: Weights, storage: Storage, make: Make
) -> Checkpoint:
    """Train all stages of `recipe.progressive`; the last one's own model.

    Raises:
        GateFailed: a stage may not start.
        ConfigError: there is no model of a stage's sizes, or the dataset is too small for a stage.
        UserError, StageFailed: as `pipelines.training.train.train`.
    """
    course = _course(recipe, dataset, base, storage)
    for number, stage in enumerate(course.config.stages):
        course.forecast = _foretell(course, number, make) if number else None
        first = make(
            "train",
            f"initial_{number + 1}",
            partial(initial_model, base, number, stage.model, recipe.train.seed, storage),
        )
        made = [_run(course, run, index, first, make) for index, run in enumerate(course.of_stage(number))]
    for line in table(course.done):
        say("train", line)
    return make("train", "trained", lambda: made[-1])


def _course(recipe: LifecycleConfig, dataset: Dataset, base: Weights, storage: Storage) -> Course:
    assert recipe.progressive is not None
    config = recipe.progressive
    sizes = count_parameters(base, [stage.model for stage in config.stages], storage)
    check_growth(sizes)
    context_length = config.context_length(recipe.train)
    course = Course(config, config.runs(recipe.train), sizes, context_length, dataset, base, storage)
    tokenizer = tokenizer_digest({file.path: file.sha256 for file in base.files})
    check_epochs(course, make_tokens(dataset, base.folder, tokenizer, storage).num_tokens)
    say("train", f"{len(sizes)} stages, {len(course.runs)} runs: " + ", ".join(f"{size / 1e6:.3g} M" for size in sizes)
        + " parameters")  # fmt: skip
    for doubt in short(config, sizes):
        say("train", f"warning: {doubt}")
    return course


def check_epochs(course: Course, num_tokens: int) -> None:
    """Raises ConfigError for a run that would see the data too often.

    Args:
        num_tokens: of the dataset.
    """
    most = course.config.gate.max_epochs
    for run in course.runs:
        epochs = course.size_of(run).num_tokens / num_tokens
        if epochs > most:
            found = f"{epochs:.1f} times the {num_tokens:,} tokens of the dataset, at most {most:g} times is asked"
            remedy = "give more text, train on fewer tokens, or raise progressive.gate.max_epochs"
            raise ConfigError(f"progressive.stages[{run.stage}].num_tokens", found, remedy)


def _foretell(course: Course, stage: int, make: Make) -> Forecast:
    """The forecast of a stage, kept before it starts.

    Raises:
        GateFailed: it may not.
    """
    found = make("train", f"forecast_{stage + 1}", partial(_forecast, course, stage))
    if not found.passed:
        missed = "\n".join(f"  - {check.name}: {check.message}" for check in found.checks if not check.passed)
        raise GateFailed(
            f"progressive: stage {stage + 1} of {len(course.sizes)} does not start, its gate says no\n{missed}\n"
            f"  all of it: {course.storage.uri}/{found.location}/manifest.json\n"
            "  -> change the stages, or what is asked of them (progressive.gate), and run again: finished runs are taken up"
        )
    return found


def _forecast(course: Course, stage: int) -> Forecast:
    begun, gate = time.monotonic(), course.config.gate
    coming = [course.size_of(run) for run in course.of_stage(stage)]
    goal = course.size_of(course.runs[-1])
    inputs = {f"run_{number}": run.digest for number, run in enumerate(course.done, start=1)}
    sizes = {"coming": [size._asdict() for size in coming], "goal": goal._asdict()}
    asked = {"gate": gate.model_dump(exclude={"max_epochs"}), "stage": stage + 1, **sizes, "rule_version": VERSION}
    key = artifacts.stage_key("forecast", asked, inputs)
    made = artifacts.load(course.storage, Forecast, key)
    if made is None:
        fields = forecast(gate, course.done, coming, goal)
        manifest = Forecast(
            key=key, inputs=inputs, config=asked, stage=stage + 1, took_s=time.monotonic() - begun, **fields
        )
        made = artifacts.save(course.storage, manifest)
    for check in made.checks:
        say("train", f"{'passed' if check.passed else 'FAILED'}: stage {stage + 1}, {check.name}: {check.message}")
    say("train", f"stage {stage + 1}: {made.summary}")
    return made


def _run(course: Course, run: StageRunConfig, index: int, first: InitialModel, make: Make) -> Checkpoint:
    """Train one run of a stage and measure what it came to."""
    size, role = course.size_of(run), f"{run.stage + 1}_{index + 1}"
    say(
        "train",
        f"stage {run.stage + 1} of {len(course.sizes)}: {size.num_parameters / 1e6:.3g} M parameters on"
        f" {size.num_tokens / 1e6:.3g} M tokens, {run.train.num_steps} steps",
    )
    trained = make("train", f"trained_{role}", partial(train, run.train, course.dataset, first, course.storage))
    predicted = course.forecast.predictions[index] if course.forecast else None
    measured = make("train", f"stage_{role}", partial(_measured, course, run, trained, predicted))
    course.done.append(measured)
    return trained


def _measured(course: Course, run: StageRunConfig, trained: Checkpoint, predicted: Prediction | None) -> StageRun:
    begun, inputs = time.monotonic(), {"model": trained.digest, "dataset": course.dataset.digest}
    if course.forecast is not None:
        inputs["forecast"] = course.forecast.digest
    asked = Windows(course.context_length, course.config.num_heldout_tokens)
    key = artifacts.stage_key("stage_run", asked._asdict(), inputs)
    made = artifacts.load(course.storage, StageRun, key)
    if made is None:
        found = heldout_loss(run.train, trained, course.dataset, asked, course.storage)
        made = artifacts.save(
            course.storage,
            StageRun(
                key=key,
                inputs=inputs,
                config=asked._asdict(),
                stage=run.stage + 1,
                num_parameters=trained.num_parameters,
                num_tokens=trained.losses[-1].num_tokens,
                sequence_length=run.train.sequence_length,
                loss=round(found.loss, 5),
                num_heldout_tokens=found.num_targets,
                context_length=course.context_length,
                prediction=predicted,
                took_s=round(time.monotonic() - begun, 1),
            ),
        )
    say("train", f"stage {run.stage + 1}: {made.summary}")
    return made


def table(runs: Sequence[StageRun]) -> list[str]:
    """What was predicted beside what came, for people."""
    lines = ["stage  parameters      tokens  length    loss  predicted"]
    for run in runs:
        beside = ""
        if run.prediction is not None:
            verdict = "inside" if run.is_as_predicted else "OUTSIDE"
            beside = f"{run.prediction.text} at {run.prediction.confidence:.0%}, {verdict}"
        lines.append(
            f"{run.stage:>5}  {run.num_parameters:>10,}  {run.num_tokens:>10,}  {run.sequence_length:>6}  {run.loss:.4f}"
            f"  {beside or '-'}"
        )
    return lines
