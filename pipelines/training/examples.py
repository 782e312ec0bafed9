"""What methods learn from files (method_file.py), as tokens, and which of them are targets."""

from __future__ import annotations

import io
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster import pools
from cluster.artifacts import digest
from cluster.errors import ConfigError, InputError
from cluster.node_cache import local_copy
from cluster.storage import Storage, open_storage
from cluster.waiting import watched
from pipelines.config import InstructConfig, PreferenceConfig
from pipelines.training.method_file import Messages, check_template, conversations, with_turns
from pipelines.vocabulary import check_known_in

FORMAT = 1
"""Of the token files: another one gives them another name."""


class Examples(NamedTuple):
    """Rows of tokens, one behind the other. For preferences, row 2i is the chosen answer to pair i and row 2i + 1 the other."""

    tokens: NDArray[np.uint32]
    targets: NDArray[np.bool_]
    """Which tokens the model is to learn: the assistant's, not what it is asked."""
    ends: NDArray[np.int64]
    """Where each row ends."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.ends, prepend=0)

    def row(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Its tokens, and which are targets."""
        start, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        return self.tokens[start:end].astype(np.int64), self.targets[start:end]


def encode(found: list[tuple[str, Messages]], tokenizer: Any, folder: str, last_only: bool) -> Examples:
    """Render by the chat template and tokenise.

    Args:
        last_only: only the last turn is a target (preferences), not all of the assistant's.

    Raises:
        InputError: the tokenizer has no chat template, or cannot say which characters a token stands for.
    """
    check_template(tokenizer, folder)
    texts, spans = [], []
    for where, messages in found:
        text, turns = with_turns(tokenizer, messages, where)
        texts.append(text)
        spans.append(turns[-1:] if last_only else turns)
    coded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    targets = [
        [any(a <= start < end <= b for a, b in turns) for start, end in offsets]
        for offsets, turns in zip(coded["offset_mapping"], spans, strict=True)
    ]
    for (where, _), flags in zip(found, targets, strict=True):
        if not any(flags[1:]):
            raise InputError(where, "the assistant says nothing that could be learnt", "leave the line out")
    return Examples(
        np.fromiter((t for row in coded["input_ids"] for t in row), np.uint32),
        np.fromiter((flag for flags in targets for flag in flags), np.bool_),
        np.cumsum([len(row) for row in coded["input_ids"]], dtype=np.int64),
    )


def make_examples(
    method: InstructConfig | PreferenceConfig, content: bytes, model_folder: str, tokenizer: str, storage: Storage
) -> str:
    """Tokenise lines of the method's file on the data pool, or find that it has been done. The storage key of the result.

    Args:
        content: of the file, or a part of it.
        model_folder: storage folder with the tokenizer.
        tokenizer: digest of the tokenizer's files.
    """
    key = f"runs/examples/{digest([FORMAT, method.kind, sha256(content).hexdigest(), tokenizer])[:16]}.npz"
    make_once(storage, key, _encode_file, method.kind, method.path, content, storage.location, model_folder)
    return key


def make_once(storage: Storage, key: str, work: Callable[..., bytes], *given: Any) -> None:
    """What `work` gives on the data pool, under that key, unless it is there.

    Raises:
        InputError: as `work` does.
    """
    import ray

    if storage.read(key) is not None:
        return
    try:
        with watched("train", "data"):
            task = ray.remote(work).options(num_cpus=1, label_selector=pools.on_pool("data"))
            storage.write(key, ray.get(task.remote(*given)))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, InputError) else error) from None


def _encode_file(kind: str, path: str, content: bytes, storage: str, model_folder: str) -> bytes:
    from transformers import AutoTokenizer

    folder = local_copy(open_storage(storage), model_folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    made = encode(list(conversations(kind, path, content)), tokenizer, model_folder, last_only=kind == "dpo")
    check_known_in(folder, int(made.tokens.max(initial=0)))
    file = io.BytesIO()
    np.savez(file, **made._asdict())
    return file.getvalue()


def load_examples(storage: Storage, key: str) -> Examples:
    """What make_examples made."""
    blob = storage.read(key)
    assert blob is not None, key
    with np.load(io.BytesIO(blob.content)) as arrays:
        return Examples(**{name: arrays[name] for name in Examples._fields})


def check_lengths(examples: Examples, rows_per_line: int, length: int, path: str) -> None:
    """Raises ConfigError: an example is longer than a sequence."""
    longest = int(examples.lengths.argmax())
    if (found := int(examples.lengths[longest])) > length:
        num = int((examples.lengths > length).sum())
        raise ConfigError(
            "train.sequence_length",
            f"{length} tokens, but {num} of {len(examples.ends)} conversations in {path} are longer"
            f" (example {longest // rows_per_line + 1}: {found})",
            f"set it to {found}, or leave them out of the file",
        )


def fill(lengths: NDArray[np.int64], length: int) -> list[list[int]]:
    """Rows put whole into sequences of `length` tokens: longest first, each where the least space is left that holds it.

    Best-fit decreasing needs at most 11/9 of the best possible number of sequences, and 4 (Johnson et al. 1974). The
    free spaces are the bits of an integer, so that a search takes length / 64 words.
    """
    bins: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    spaces = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        need = int(lengths[row])
        rest = spaces >> need
        if rest:
            space = need + (rest & -rest).bit_length() - 1
            chosen = by_space[space].pop()
            if not by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, chosen = length, len(bins)
            bins.append([])
        bins[chosen].append(row)
        by_space.setdefault(space - need, []).append(chosen)
        spaces |= 1 << (space - need)
    return bins
