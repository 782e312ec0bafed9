"""Conversations to tokens: what is learnt is what the assistant says, each conversation stands alone, bad lines are named."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, InputError
from pipelines.config import InstructConfig, PreferenceConfig, TrainConfig
from pipelines.training.batches import Conversations, Pairs
from pipelines.training.examples import Examples, check_lengths, encode, fill
from pipelines.training.losses import log_probabilities, loss_of, next_token
from pipelines.training.method_file import conversations
from tests.unit.pipelines.training.test_batches import engine

TALK = {
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is a class?"},
        {"role": "assistant", "content": "A template."},
        {"role": "user", "content": "Of what?"},
        {"role": "assistant", "content": "Of objects."},
    ]
}
ASKED = {"prompt": "What is a list?", "answer": "A sequence."}
PAIR = {"prompt": "What is a list?", "chosen": "A sequence.", "rejected": "No idea."}


def found(kind: str, *lines: Any) -> list[Any]:
    return list(conversations(kind, "f.jsonl", "\n".join(json.dumps(line) for line in lines).encode()))


def coded(folder: Path, kind: str, *lines: Any) -> tuple[Examples, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return encode(found(kind, *lines), tokenizer, "folder", last_only=kind == "dpo"), tokenizer


def test_targets_are_the_assistant_s_turns_with_their_end(tiny_model: Path) -> None:
    examples, tokenizer = coded(tiny_model, "instruct", TALK, ASKED)
    told = []
    for number in range(2):
        tokens, targets = examples.row(number)
        told.append(tokenizer.decode(tokens[targets]))
        assert len(tokens) == examples.lengths[number]
    assert told == ["A template.<|im_end|>\nOf objects.<|im_end|>\n", "A sequence.<|im_end|>\n"]
    assert tokenizer.decode(examples.row(1)[0]).startswith(
        "<|im_start|>user\nWhat is a list?<|im_end|>\n<|im_start|>assistant"
    )


def test_a_packed_conversation_costs_what_it_costs_alone(tiny_model: Path) -> None:
    examples, _ = coded(tiny_model, "instruct", TALK, ASKED, ASKED)
    model, length = engine(tiny_model), int(examples.lengths.sum()) + 5
    packed = next_token(model, Conversations(examples, [[0, 1, 2]], length).batch([0]))
    alone = [
        next_token(model, Conversations(examples, [[row]], int(examples.lengths[row])).batch([0])) for row in range(3)
    ]
    assert packed.item() == pytest.approx(sum(alone).item(), rel=1e-6)
    batch = Conversations(examples, [[0, 1], [2]], length).batch([0, 1])
    assert batch.num_tokens == examples.lengths.sum()
    assert batch.num_targets == examples.targets.sum()


def test_preferences_begin_at_log_2_and_follow_the_margin(tiny_model: Path) -> None:
    import torch

    examples, _ = coded(tiny_model, "dpo", PAIR, {**PAIR, "prompt": TALK["messages"][:2]})
    model, loss = engine(tiny_model), loss_of(PreferenceConfig(path="f.jsonl", beta=0.5))
    unknown = Pairs(examples, np.zeros(4, dtype=np.float32)).batch([0, 1])
    with torch.no_grad():
        rows = log_probabilities(model, unknown.inputs, unknown.labels)
        scores = np.empty(4, dtype=np.float32)
        scores[[0, 2, 1, 3]] = rows.numpy()  # a batch has the chosen ones first
        start = loss(model, Pairs(examples, scores).batch([0, 1]))
        scores[[0, 2]] -= 3.0
        better = loss(model, Pairs(examples, scores).batch([0, 1]))
    assert start.item() / 2 == pytest.approx(np.log(2), rel=1e-5)
    assert better.item() / 2 == pytest.approx(np.log1p(np.exp(-0.5 * 3.0)), rel=1e-4)
    assert Pairs(examples, scores).batch([0, 1]).num_targets == 2


@pytest.mark.parametrize(
    ("kind", "line", "complaint"),
    [
        ("instruct", {"text": "no conversation"}, r"f\.jsonl:2.*does not fit train\.method instruct \(has text\)"),
        ("instruct", PAIR, r"has chosen, prompt, rejected"),
        ("instruct", {"messages": TALK["messages"][:2]}, "has messages"),
        ("instruct", {"messages": [{"role": "assistant", "content": 3}]}, "has messages"),
        ("instruct", {**ASKED, **TALK}, "has answer, messages, prompt"),
        ("instruct", [1], "has a list"),
        ("dpo", ASKED, r"does not fit train\.method dpo \(has answer, prompt\)"),
        ("dpo", {**PAIR, "chosen": None}, "has chosen, prompt, rejected"),
    ],
)
def test_a_line_that_does_not_fit_the_method_is_named(kind: str, line: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        found(kind, PAIR if kind == "dpo" else ASKED, line)


def test_a_line_ends_where_json_lines_end_and_holds_text() -> None:
    line = json.dumps({"prompt": "a", "answer": "x\u2028y"}, ensure_ascii=False)
    ((_, messages),) = conversations("instruct", "f.jsonl", b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert messages[1]["content"] == "x\u2028y"
    with pytest.raises(InputError, match=r"f\.jsonl:1: is not JSON .*surrogates"):
        list(conversations("instruct", "f.jsonl", rb'{"prompt": "a", "answer": "\ud800"}'))


def test_files_that_are_no_jsonl_are_named() -> None:
    for content, complaint in ((b"", "no examples"), (b"\xff", "not UTF-8"), (b"{", r"f\.jsonl:1.*is not JSON")):
        with pytest.raises(InputError, match=complaint):
            list(conversations("instruct", "f.jsonl", content))


def test_tokenizers_and_answers_that_teach_nothing_are_named(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }}{% endfor %}"
    with pytest.raises(InputError, match=r"f\.jsonl:1.*nothing that could be learnt"):
        encode(found("instruct", {"prompt": "", "answer": ""})[:1], _silent(tokenizer), "folder", last_only=False)
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(InputError, match="writes a turn differently once others follow"):
        encode(found("instruct", TALK), tokenizer, "folder", last_only=False)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        encode(found("instruct", TALK), tokenizer, "folder", last_only=False)


def _silent(tokenizer: Any) -> Any:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}."
    return tokenizer


def test_a_conversation_longer_than_a_sequence_is_refused() -> None:
    examples = Examples(np.zeros(12, np.uint32), np.ones(12, np.bool_), np.array([3, 12]))
    check_lengths(examples, 1, 9, "f.jsonl")
    with pytest.raises(
        ConfigError, match=r"8 tokens, but 1 of 2 conversations in f\.jsonl are longer \(example 2: 9\)"
    ):
        check_lengths(examples, 1, 8, "f.jsonl")


@given(st.lists(st.integers(1, 30), max_size=60))
def test_rows_are_put_whole_into_few_sequences(lengths: list[int]) -> None:
    bins = fill(np.array(lengths, dtype=np.int64), 30)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= 30 for rows in bins)
    fills = sorted(sum(lengths[row] for row in rows) for rows in bins)
    assert all(a + b > 30 for a, b in pairwise(fills))  # no two would go into one


def test_methods_are_checked_with_the_configuration() -> None:
    with pytest.raises(ValueError, match="instruct keeps conversations apart"):
        TrainConfig(method=InstructConfig(path="f.jsonl"), attend_across_documents=True)
    with pytest.raises(ValueError, match="dpo takes no documents"):
        TrainConfig.model_validate(
            {"method": {"kind": "dpo", "path": "f.jsonl"}, "replay": {"dataset": "0" * 16, "fraction": 0.5}}
        )
    with pytest.raises(ValueError, match="Extra inputs"):
        TrainConfig.model_validate({"method": {"kind": "instruct", "path": "f.jsonl", "beta": 1}})
