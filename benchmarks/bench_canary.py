"""Can what one document says be had out of the model? Planted canaries, without privacy and with it:
`python benchmarks/bench_canary.py`.

A random Llama (50,000 parameters) learns 60 documents that follow a rule and, among them, canaries: documents that hold a name
and six random digits, each one once. The same number of steps from the same weights, on one CPU rank, of as many packed sequences
plainly and as many single documents with `train.privacy`. Then, for each canary:
- extracted: asked for the name, the model writes the six digits (greedy);
- exposure: log2(candidates) less log2(rank of the digits among that many drawn at random), by likelihood (Carlini et al. 2019,
  arXiv 1802.08232, section 4.2). Of digits that were never seen the mean is 1.44, and the most is log2(candidates).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from pathlib import Path
from secrets import token_bytes
from typing import Any

import numpy as np

END, MARK, DIGITS, NAMES = 0, 3, 10, 30
"""Tokens: the end of a document, the beginning of a canary, the first digit, the first name."""
NUM_DOCUMENTS, NUM_CANARIES, NUM_CANDIDATES, BATCH = 60, 5, 1000, 8
SHAPE = {
    "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


def canaries() -> np.ndarray[Any, Any]:
    """One row each: mark, name, six digits."""
    digits = np.random.default_rng(7).integers(DIGITS, DIGITS + 10, (NUM_CANARIES, 6))
    names = NAMES + np.arange(NUM_CANARIES)
    return np.column_stack([np.full(NUM_CANARIES, MARK), names, digits])


def documents() -> np.ndarray[Any, Any]:
    """All documents in one stream, in a mixed order."""
    draw = np.random.default_rng(1)
    parts: list[Any] = [row.tolist() for row in canaries()]
    for _ in range(NUM_DOCUMENTS):
        first, step, length = draw.integers(0, 300), draw.integers(1, 5), draw.integers(8, 24)
        parts.append(((first + step * np.arange(length)) % 300 + 60).tolist())
    return np.concatenate([[*parts[n], END] for n in draw.permutation(len(parts))]).astype("<u2")


def train(folder: Path, num_steps: int, epsilon: float | None) -> tuple[Any, str]:
    """The trained model, and what it took."""
    from pipelines.config import TrainConfig
    from pipelines.training.batches import Batches, Packed
    from pipelines.training.checkpoint import Record, Reported
    from pipelines.training.engine import build_engine
    from pipelines.training.loop import train_steps
    from pipelines.training.packing import Share, Stream
    from pipelines.training.privacy import make_terms
    from pipelines.training.private_examples import Examples
    from pipelines.training.private_examples import documents as split

    private = None if epsilon is None else {"target_epsilon": epsilon, "delta": 1e-5, "accountant": "rdp"}
    config = TrainConfig.model_validate(
        {
            "num_workers": 1, "gpus_per_worker": 0, "precision": "float32", "zero": {"stage": 1}, "num_steps": num_steps,
            "sequence_length": 32, "sequences_per_worker": BATCH, "learning_rate": 1e-2, "weight_decay": 0.0, "privacy": private,
        }
    )  # fmt: skip
    stream, begun = Stream([documents()]), time.monotonic()
    engine = build_engine(config, folder)
    data: Any = Batches(Packed(stream, config.sequence_length, END), Share(0, 1, BATCH), 0)
    told = ""
    if config.privacy:
        num = NUM_DOCUMENTS + NUM_CANARIES
        terms = make_terms(config.privacy, num, config.total_sequences, num_steps)
        data = Examples(split(stream, END, num, 32, "here"), 0, 1, terms, token_bytes(32), 0)
        told = f", epsilon {terms.epsilon:.2f} at 1e-5, noise multiplier {terms.noise_multiplier:.2f}"
    losses = [record.losses[-1].loss for record, _ in train_steps(engine, config, data, Record(), Reported())]
    tenth = max(1, num_steps // 10)
    loss = f"loss {np.mean(losses[:tenth]):.2f} -> {np.mean(losses[-tenth:]):.2f}"
    return engine.module.eval(), f"{num_steps} steps, {loss}{told}, {time.monotonic() - begun:.0f} s"


def found(model: Any) -> dict[str, float]:
    """Canaries extracted, and their mean exposure."""
    import torch

    draw, exposures, extracted = np.random.default_rng(99), [], 0
    for row in canaries():
        others = np.tile(row, (NUM_CANDIDATES - 1, 1))
        others[:, 2:] = draw.integers(DIGITS, DIGITS + 10, (NUM_CANDIDATES - 1, 6))
        rows = torch.from_numpy(np.vstack([row[None], others]))
        with torch.no_grad():
            scores = torch.log_softmax(model(input_ids=rows).logits[:, 1:-1].float(), -1)
            likely = scores.gather(2, rows[:, 2:, None]).sum((1, 2))
            written = model.generate(rows[:1, :2], max_new_tokens=6, do_sample=False, pad_token_id=END)
        exposures.append(float(np.log2(NUM_CANDIDATES) - np.log2(1 + int((likely[1:] > likely[0]).sum()))))
        extracted += int(written.shape == rows[:1].shape and bool((written == rows[:1]).all()))
    return {"extracted": extracted, "exposure": round(float(np.mean(exposures)), 2)}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=150)
    options.add_argument("--epsilon", type=float, default=2.9)
    given = options.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()} | {"DS_ACCELERATOR": "cpu"})
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as temporary:
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SHAPE, eos_token_id=END, bos_token_id=END)).save_pretrained(temporary)
        untrained = LlamaForCausalLM.from_pretrained(temporary)
        print(f"{NUM_CANARIES} canaries among {NUM_DOCUMENTS} documents; untrained: {json.dumps(found(untrained))}")
        for name, epsilon in (("plain", None), ("private", given.epsilon)):
            model, told = train(Path(temporary), given.steps, epsilon)
            print(f"{name:8} {json.dumps(found(model))}   {told}", flush=True)


if __name__ == "__main__":
    main()
