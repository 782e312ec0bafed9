"""Pairs of answers that are not trained on, and how often the model prefers the chosen one, before training and after."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.artifacts import PreferenceAccuracy
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import PreferenceConfig, TrainConfig
from pipelines.training.batches import Pairs
from pipelines.training.examples import Examples, load_examples
from pipelines.training.reference import log_probabilities_of, reference
from pipelines.training.worker_plan import Plan


class Parts(NamedTuple):
    """A method's file, once with the lines to train on and once with those held out; the others are blank, so that a line keeps
    its number."""

    train: bytes
    heldout: bytes


def split(content: bytes, method: PreferenceConfig) -> Parts:
    """Hold out each prompt with a chance of `heldout_percent`, by a hash of the seed and the prompt.

    So a pair stays on its side when others are added or reordered, and pairs on one prompt are never on both sides, where
    the answers of one would tell of the other's.

    Raises:
        InputError: nothing is left to train on.
    """
    lines = content.split(b"\n")
    chosen = [_is_heldout(line, method) for line in lines]
    if any(chosen) and not any(line.strip() for line, held in zip(lines, chosen, strict=True) if not held):
        found = f"all of its {sum(chosen)} pair(s) are held out"
        raise InputError(method.path, found, "give more pairs, or set train.method.heldout_percent: 0")

    def side(held: bool) -> bytes:
        return b"\n".join(line if is_held == held else b"" for line, is_held in zip(lines, chosen, strict=True))

    return Parts(side(False), side(True) if any(chosen) else b"")


def _is_heldout(line: bytes, method: PreferenceConfig) -> bool:
    """A line that is no pair is not: whoever reads the others says what is wrong with it."""
    try:
        prompt = json.loads(line.removeprefix(b"\xef\xbb\xbf"))["prompt"]
    except (ValueError, KeyError, TypeError):
        return False
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    name = json.dumps([method.heldout_seed, messages], sort_keys=True)
    drawn = int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64
    return drawn < method.heldout_percent / 100


def heldout_pairs(engine: Any, config: TrainConfig, storage: Storage, what: Plan) -> Pairs | None:
    """The pairs held out, with what the model says of them. Every rank must call it, before a checkpoint is read."""
    if not what.heldout:
        return None
    examples = load_examples(storage, what.heldout)
    return Pairs(examples, reference(engine, examples, storage, f"{what.run}/heldout.npy", _rows(config)))


def measured(engine: Any, config: TrainConfig, pairs: Pairs) -> PreferenceAccuracy:
    """How often the engine's model prefers the chosen answer now, beside how often it did. Every rank must call it."""
    return accuracy(pairs.examples, pairs.reference, log_probabilities_of(engine, pairs.examples, _rows(config)))


def _rows(config: TrainConfig) -> int:
    """Scored at once: as many as a step is planned for (memory.py)."""
    return 1 if config.privacy else config.sequences_per_worker


def accuracy(examples: Examples, before: NDArray[np.float32], after: NDArray[np.float32]) -> PreferenceAccuracy:
    """By the log-probability of each row's targets (2i the chosen answer to pair i, 2i + 1 the other), in nats."""
    tokens = num_targets(examples)
    first, then = _prefers(before), _prefers(after)
    return PreferenceAccuracy(
        num_pairs=len(before) // 2,
        num_before=int(first.sum()),
        num_after=int(then.sum()),
        num_turned_right=int((then & ~first).sum()),
        num_turned_wrong=int((first & ~then).sum()),
        num_before_per_token=int(_prefers(before / tokens).sum()),
        num_after_per_token=int(_prefers(after / tokens).sum()),
        num_rewarded=int(_prefers(after - before).sum()),
    )


def num_targets(examples: Examples) -> NDArray[np.int64]:
    """Of each row. Its first token is never one: nothing stands before it."""
    firsts = examples.ends - examples.lengths
    flags = examples.targets.copy()
    flags[firsts] = False
    return np.add.reduceat(flags, firsts, dtype=np.int64)


def _prefers(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the chosen answer has more; a tie is no preference."""
    found: NDArray[np.bool_] = scores[0::2] > scores[1::2]
    return found
