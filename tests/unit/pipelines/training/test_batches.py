"""Documents packed into one sequence are to the model as if each stood alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import ConfigError
from pipelines.config import TrainConfig
from pipelines.training.batches import Batch, Batches, Packed, Replay
from pipelines.training.losses import check_boundaries, next_token
from pipelines.training.packing import Share, Stream

END = 0
STREAM = Stream([np.array([5, 6, 7, END, 8, END, 9, 10, 11, 12, END, 13, 14, 15, 16, END], dtype="<u2")])


def engine(folder: Path) -> Any:
    """The model with the few things of a DeepSpeed engine that losses use."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    model.config.use_cache = False
    return Engine(model)


class Engine:
    def __init__(self, model: Any) -> None:
        self.module, self.device, self.eval, self.train = model, model.device, model.eval, model.train

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_positions_and_targets_begin_anew_with_each_document() -> None:
    batch = Packed(STREAM, 8, END).batch([0, 1])
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch.labels.tolist() == [[-100, 6, 7, 0, -100, 0, -100, 10], [-100, 12, 0, -100, 14, 15, 16, 0]]
    assert batch.num_targets == 5 + 6
    assert Packed(STREAM, 8, None).batch([0, 1]).num_targets == 2 * 7


def test_the_loss_is_that_of_the_documents_one_by_one(tiny_model: Path) -> None:
    model = engine(tiny_model)
    packed = next_token(model, Packed(STREAM, 8, END).batch([0, 1])).item()
    single = 0.0
    for row in (STREAM.sequence(0, 8), STREAM.sequence(1, 8)):
        cuts = [0, *(np.flatnonzero(row == END) + 1), len(row)]
        for part in (row[a:b] for a, b in pairwise(cuts) if a < b):
            single += next_token(model, Packed(Stream([part]), len(part), None).batch([0])).item()
    assert packed == pytest.approx(single, rel=1e-6)
    across = next_token(model, Packed(STREAM, 8, None).batch([0, 1])).item()
    assert across != pytest.approx(single, rel=1e-2)


def test_a_model_that_looks_back_into_other_documents_is_refused(tiny_model: Path) -> None:
    model = engine(tiny_model)
    check_boundaries(model)
    blind = Engine(model.module)
    blind.__class__ = type("Blind", (Engine,), {"__call__": lambda self, input_ids, **_: self.module(input_ids)})
    with pytest.raises(ConfigError, match="looks back into the document before"):
        check_boundaries(blind)


def test_experts_are_balanced_where_the_model_asks_for_it() -> None:
    import torch

    logits = torch.zeros(1, 3, 4)
    model = SimpleNamespace(config=SimpleNamespace(router_aux_loss_coef=0.5))
    moe = SimpleNamespace(module=model)
    batch = Batch({}, torch.tensor([[1, 2, 3]]), [0], 3)

    def called(self: Any, **_: Any) -> Any:
        return SimpleNamespace(logits=logits, aux_loss=torch.tensor(3.0))

    moe = type("Moe", (), {"module": model, "__call__": called})()
    assert next_token(moe, batch).item() == pytest.approx(2 * (np.log(4) + 0.5 * 3.0))


@pytest.mark.parametrize("change", [(2, 1), (1, 2), (2, 4), (4, 1)])
def test_no_sequence_is_seen_twice_or_skipped_when_the_ranks_change_in_an_epoch(change: tuple[int, int]) -> None:
    """Ids as the ranks take them: 3 of 9 steps by some ranks, the rest by others, over an epoch and a half."""
    before, after = change
    long = Stream([np.arange(96, dtype="<u2")])

    def taken(world_size: int, steps: range) -> list[list[int]]:
        config = TrainConfig(num_workers=world_size, sequences_per_worker=1, sequences_per_step=8)
        shares = [Share(rank, world_size, 1, config.accumulation) for rank in range(world_size)]
        ranks = [Batches(Packed(long, 2, END), share, seed=3) for share in shares]
        return [sorted(i for rank in ranks for batch in rank.of_step(s) for i in batch.ids) for s in steps]

    seen = taken(before, range(3)) + taken(after, range(3, 9))
    assert seen == taken(1, range(9))
    assert sorted(i for step in seen[:6] for i in step) == list(range(48))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_replayed_sequences_are_spread_evenly_whatever_the_ranks(world_size: int) -> None:
    new, old = (
        Packed(Stream([np.arange(first, first + 2 * num, dtype="<u2")]), 2, END) for first, num in ((1, 30), (500, 7))
    )
    source = Replay(new, old, fraction=0.25)
    config = TrainConfig(num_workers=world_size, sequences_per_worker=1, sequences_per_step=8)
    ranks = [Batches(source, Share(r, world_size, 1, config.accumulation), seed=3) for r in range(world_size)]
    steps = [sorted(i for rank in ranks for batch in rank.of_step(s) for i in batch.ids) for s in range(5)]
    assert [sum(i >= 30 for i in step) for step in steps] == [2] * 5
    assert sorted(i for step in steps for i in step if i < 30) == list(range(30))
    old_ones = [i for step in steps for i in step if i >= 30]
    assert set(old_ones[:8]) == set(range(30, 37))  # the second epoch of the old ones begins
    alone = Batches(source, Share(0, 1, 8), seed=3)
    assert steps == [sorted(alone.of_step(s)[0].ids) for s in range(5)]
    assert source.batch([0, 30]).inputs["input_ids"].tolist() == [[1, 2], [500, 501]]
