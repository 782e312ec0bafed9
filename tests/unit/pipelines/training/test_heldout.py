"""Pairs that are not trained on: which, always the same ones, and how often the chosen answer is preferred."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.artifacts import Checkpoint, Dataset, ImportedModel, LossPoint, PreferenceAccuracy
from cluster.errors import InputError
from pipelines.config import PreferenceConfig, TrainConfig
from pipelines.training.batches import Pairs
from pipelines.training.examples import Examples, encode
from pipelines.training.heldout import accuracy, num_targets, split
from pipelines.training.losses import log_probabilities
from pipelines.training.method_file import conversations
from pipelines.training.train_key import train_key
from tests.unit.pipelines.training.test_batches import engine

LINES = [json.dumps({"prompt": f"Is {n} even?", "chosen": "yes", "rejected": f"no {n}"}).encode() for n in range(400)]


def method(percent: float = 10, seed: int = 0) -> PreferenceConfig:
    return PreferenceConfig(path="f.jsonl", heldout_percent=percent, heldout_seed=seed)


def lines(content: bytes) -> set[bytes]:
    return {line for line in content.split(b"\n") if line}


def test_each_pair_is_on_one_side_and_stays_there_when_others_come_and_go() -> None:
    train, heldout = split(b"\n".join(LINES), method())
    assert lines(train) | lines(heldout) == set(LINES)
    assert not lines(train) & lines(heldout)
    assert 20 <= len(lines(heldout)) <= 60  # 40 of 400 are expected, with a standard deviation of 6
    part = split(b"\n".join(LINES[::-2]), method())
    assert lines(part.heldout) == lines(heldout) & set(LINES[::-2])
    assert lines(split(b"\n".join(LINES), method(seed=1)).heldout) != lines(heldout)
    assert lines(split(b"\n".join(LINES), method(30)).heldout) > lines(heldout)


def test_pairs_on_one_prompt_are_on_one_side_however_it_is_written() -> None:
    for number in range(50):
        asked = f"Is {number} even?"
        given = [asked, asked, [{"role": "user", "content": asked}], [{"content": asked, "role": "user"}]]
        pairs = [{"prompt": prompt, "chosen": "yes", "rejected": str(n)} for n, prompt in enumerate(given)]
        other = b'{"prompt": "never held out", "chosen": "a", "rejected": "b"}'
        content = b"\n".join([*(json.dumps(pair).encode() for pair in pairs), other])
        assert len(lines(split(content, method(50)).heldout)) in {0, 4}


def test_a_line_keeps_its_number_and_one_that_is_no_pair_is_told_of() -> None:
    content = b"\n".join([*LINES[:40], b'{"prompt": "x"}', b"no json", b"[1]"])
    train, heldout = split(content, method(50))
    assert b'{"prompt": "x"}' in train + heldout
    assert b"no json" in train
    with pytest.raises(InputError, match=r"f\.jsonl:4[12]: "):
        list(conversations("dpo", "f.jsonl", train))
    numbers = [where for where, _ in conversations("dpo", "f.jsonl", split(b"\n".join(LINES[:40]), method(50)).heldout)]
    wanted = [f"f.jsonl:{n}" for n, line in enumerate(LINES[:40], 1) if line in heldout]
    assert numbers[::2] == wanted


def test_nothing_is_held_out_where_that_was_asked_for_and_something_is_always_trained_on() -> None:
    assert split(b"\n".join(LINES), method(0)) == (b"\n".join(LINES), b"")
    held = next(line for line in LINES if lines(split(b"\n".join([line, *LINES]), method()).heldout) & {line})
    with pytest.raises(InputError, match=r"(?s)f\.jsonl: all of its 2 pair\(s\) are held out.*heldout_percent: 0"):
        split(b"\n".join([held, b"", held]), method())


def test_by_sums_by_tokens_and_by_what_was_gained() -> None:
    ends = np.array([4, 10, 14, 20])  # each row: one token that is asked, 3 or 5 that are answered
    targets = np.ones(20, np.bool_)
    targets[[0, 4, 10, 14]] = False
    examples = Examples(np.zeros(20, np.uint32), targets, ends)
    assert num_targets(examples).tolist() == [3, 5, 3, 5]
    before = np.array([-9, -10, -9, -6], np.float32)
    after = np.array([-9, -20, -6, -5.5], np.float32)
    found = accuracy(examples, before, after)
    assert found == PreferenceAccuracy(
        num_pairs=2, num_before=1, num_after=1, num_turned_right=0, num_turned_wrong=0, num_before_per_token=0,
        num_after_per_token=1, num_rewarded=2,
    )  # fmt: skip
    turned = accuracy(examples, after, before[[1, 0, 3, 2]])
    assert (turned.num_turned_right, turned.num_turned_wrong, turned.gain_points) == (1, 1, 0.0)
    assert accuracy(examples, before, before).num_rewarded == 0  # before training no reward is the larger


def test_first_tokens_are_no_targets_and_sums_are_of_the_targets(tiny_model: Path) -> None:
    """What is divided by is what was summed over, and the sum is the plain one of each target's log-probability."""
    import torch
    from transformers import AutoTokenizer

    found = list(conversations("dpo", "f.jsonl", b"\n".join(LINES[:3])))
    examples = encode(found, AutoTokenizer.from_pretrained(tiny_model), "folder", last_only=True)
    batch, model = Pairs(examples, np.zeros(6, np.float32)).batch([0, 2]), engine(tiny_model)
    with torch.no_grad():
        scores = log_probabilities(model, batch.inputs, batch.labels)
        for score, row in zip(scores.tolist(), (0, 4, 1, 5), strict=True):
            tokens, targets = examples.row(row)
            likely = model(input_ids=torch.from_numpy(tokens)[None]).logits[0].log_softmax(-1)
            single = [likely[n - 1, tokens[n]].item() for n in range(1, len(tokens)) if targets[n]]
            assert len(single) == num_targets(examples)[row]
            assert score == pytest.approx(sum(single), rel=1e-5)


def test_the_figure_is_told_and_runs_without_it_keep_key_and_digest() -> None:
    figure = PreferenceAccuracy(
        num_pairs=40, num_before=20, num_after=30, num_turned_right=12, num_turned_wrong=2, num_before_per_token=20,
        num_after_per_token=22, num_rewarded=36,
    )  # fmt: skip
    point = LossPoint(step=1, loss=0.69, learning_rate=0.1, num_tokens=9)
    made = Checkpoint(key="a" * 16, losses=(point,), preference=figure)
    assert "in 50.0 % before, 75.0 % after [59.8, 85.8]; implicit reward larger in 90.0 %" in made.summary
    assert "preference" not in Checkpoint(key="a" * 16).model_dump_json()


def test_what_is_held_out_is_in_the_key_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(b"\n".join(LINES))
    base, dataset = ImportedModel(key="b" * 16), Dataset(key="a" * 16)

    def key(**fields: float) -> str:
        given = {"kind": "dpo", "path": str(tmp_path / "f.jsonl"), **fields}
        return train_key(TrainConfig.model_validate({"method": given}), dataset, base)

    assert len({key(), key(heldout_percent=20), key(heldout_seed=1), key(heldout_percent=0)}) == 4
    assert key(heldout_percent=0) == "2b2184e02471434a"  # as before pairs were held out
