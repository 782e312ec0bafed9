"""Prompts of reinforcement: JSONL -> conversations that wait for an answer, with what the rewards take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from cluster.artifacts import digest
from cluster.errors import ConfigError, InputError
from cluster.node_cache import local_copy
from cluster.storage import Storage, open_storage
from pipelines.config import AnswerReward, GrpoConfig
from pipelines.training.examples import FORMAT, make_once
from pipelines.training.method_file import are_messages, check_template, objects, rendered, unfit
from pipelines.vocabulary import check_known_in

Row = dict[str, Any]
"""`prompt`, a list of messages, and the line's other fields."""

TAKEN = frozenset(
    {
        "prompts",
        "completion",
        "completions",
        "completion_ids",
        "trainer_state",
        "log_extra",
        "log_metric",
        "image",
        "images",
    }
)
"""Names that TRL gives to something else, or takes for pictures."""


class Prompts(NamedTuple):
    """The lines of a file, in its order."""

    rows: list[Row]
    lengths: list[int]
    """Tokens of each prompt, by the model's chat template."""


def read_prompts(path: str, content: bytes) -> list[tuple[str, Row]]:
    """(where, row) of each line.

    Raises:
        InputError: a line is no prompt, or has other fields than the first; or there are none.
    """
    rows = list[tuple[str, Row]]()
    for where, given in objects("grpo", path, content):
        row = _row(given)
        if row is None:
            raise unfit("grpo", where, given)
        if taken := sorted(TAKEN & row.keys()):
            raise InputError(where, f"has a field `{taken[0]}`, which rewards are given something else by", "rename it")
        if rows and row.keys() != rows[0][1].keys():
            found = f"has the fields {', '.join(sorted(row))}, the first line {', '.join(sorted(rows[0][1]))}"
            raise InputError(where, found, "give all lines the same fields")
        rows.append((where, row))
    return rows


def _row(given: Any) -> Row | None:
    prompt: Any = given.get("prompt") if isinstance(given, dict) else None
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    if not are_messages(prompt) or prompt[-1]["role"] == "assistant":
        return None
    return {**given, "prompt": prompt}


def make_prompts(method: GrpoConfig, content: bytes, model_folder: str, tokenizer: str, storage: Storage) -> str:
    """Read the method's file on the data pool, or find that it has been done. The storage key of the result.

    Args:
        model_folder: storage folder with the tokenizer.
        tokenizer: digest of the tokenizer's files.
    """
    key = f"runs/examples/{digest([FORMAT, method.kind, sha256(content).hexdigest(), tokenizer])[:16]}.json"
    make_once(storage, key, _measure, method.path, content, storage.location, model_folder)
    return key


def _measure(path: str, content: bytes, storage: str, model_folder: str) -> bytes:
    from transformers import AutoTokenizer

    folder = local_copy(open_storage(storage), model_folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    check_template(tokenizer, model_folder)
    found = read_prompts(path, content)
    texts = [rendered(tokenizer, row["prompt"], where, ask=True) for where, row in found]
    tokens = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    check_known_in(folder, max(map(max, tokens)))
    return json.dumps(Prompts([row for _, row in found], [len(some) for some in tokens])._asdict()).encode()


def load_prompts(storage: Storage, key: str) -> Prompts:
    """What make_prompts made."""
    blob = storage.read(key)
    assert blob is not None, key
    return Prompts(**json.loads(blob.content))


def check_prompts(prompts: Prompts, method: GrpoConfig, sequence_length: int) -> None:
    """Raises ConfigError: a prompt leaves no room for an answer, or a reward takes a field that lines do not have."""
    room = sequence_length - method.max_completion_tokens
    if (longest := max(prompts.lengths)) > room:
        num = sum(length > room for length in prompts.lengths)
        raise ConfigError(
            "train.sequence_length",
            f"{sequence_length} tokens, of which {method.max_completion_tokens} are the answer's, but {num} of"
            f" {len(prompts.lengths)} prompts in {method.path} have more than {room} (the longest {longest})",
            f"set it to {longest + method.max_completion_tokens}, or leave them out of the file",
        )
    for reward in method.rewards:
        if isinstance(reward, AnswerReward):
            _check_answers(prompts.rows, reward, method.path)


def _check_answers(rows: Sequence[Row], reward: AnswerReward, path: str) -> None:
    field = f"train.method.rewards: {reward.name}"
    if reward.field not in rows[0]:
        fields = ", ".join(sorted(rows[0].keys() - {"prompt"})) or "none beside prompt"
        raise ConfigError(field, f"the lines of {path} have no field `{reward.field}`", f"name one they have: {fields}")
    bad = [number for number, row in enumerate(rows, 1) if not _is_answer(row[reward.field])]
    if bad:
        found = (
            f"`{reward.field}` of {len(bad)} prompts in {path} is no text and no number (the first: prompt {bad[0]})"
        )
        raise ConfigError(field, found, "mend these lines, or leave them out")


def _is_answer(given: Any) -> bool:
    return (isinstance(given, str) and bool(given.strip())) or (
        isinstance(given, int | float) and not isinstance(given, bool)
    )
