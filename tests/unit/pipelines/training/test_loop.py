"""The loop's turns when a loss does not stand, the steps themselves being given; and what is kept of a model."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import TrainConfig
from pipelines.training import loop
from pipelines.training.checkpoint import Record
from pipelines.training.loop import Diverged, Step, save_model, train_steps


class Run:
    """Steps whose loss falls slowly, but for the data numbered in `bad`; a checkpoint every 10 steps from the 10th on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bad: dict[int, float], **fields: Any) -> None:
        self.bad, self.taken, self.good = bad, list[int](), Record()
        self.config = TrainConfig(num_steps=40, warmup_steps=0, **fields)
        monkeypatch.setattr(loop, "optimizer_step", self._step)

    def _step(self, engine: Any, batches: Any, at: int, rate: float, loss: Any) -> Step:
        self.taken.append(at)
        return Step(self.bad.get(at, 3.0 - 0.01 * at), num_tokens=10, checksum=at)

    def finish(self) -> Record:
        done = Record()
        for done, _ in train_steps(SimpleNamespace(), self.config, SimpleNamespace(), Record(), lambda _: self.good):
            self.good = done if done.step % 10 == 0 else self.good
        return done


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


def test_spikes_pass_where_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Run(monkeypatch, {32: 9.0}, spike_deviations=None).finish().incidents == ()


def test_there_is_an_end_to_going_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Diverged, match=r"at step 15, after 2 others: lower train\.learning_rate"):
        Run(monkeypatch, dict.fromkeys((14, 15, 16), math.nan), max_skipped_steps=2).finish()


def test_nothing_to_go_back_to_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Diverged, match="at step 4, before the first checkpoint"):
        Run(monkeypatch, {3: math.inf}).finish()


def test_a_model_computed_in_float32_is_kept_in_bfloat16_and_tied_weights_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    (entry,) = (
        file
        for file in save_model(model, model.state_dict(), tiny_model, tmp_path / "model", narrow=True)
        if file.path.endswith(".safetensors")
    )
    assert entry.num_bytes == (tiny_model / "model.safetensors").stat().st_size
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.bfloat16
    assert all(torch.equal(again.state_dict()[name], w.bfloat16()) for name, w in model.state_dict().items())
