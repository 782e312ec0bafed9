"""The bare side of bench_train.py, one rank: transformers, DeepSpeed and torch's DataLoader, without Ray and without serinus.

    torchrun --nproc-per-node 2 benchmarks/train_bare.py SETTINGS.json

It is the script that one would write without us: tokens of all documents behind one another, cut into sequences, shuffled once;
forward, backward, step; DeepSpeed's own checkpoint. Settings are named in bench_train.py, and so is what it writes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from train_times import Noted, keep_on, used


def main(settings: str) -> None:
    times: dict[str, Any] = {"began": psutil.Process().create_time(), "entered": used()}
    given = json.loads(Path(settings).read_text())
    keep_on(given["asked"]["cores"])
    engine = build(given)
    times["built"] = used()
    loader = batches(engine, given, times)
    if given["resume"]:
        engine.load_checkpoint(given["checkpoint"])
    times["loaded"] = used()
    times |= train(engine, loader, given)
    if not given["resume"]:
        engine.save_checkpoint(given["checkpoint"])
    (Path(given["out"]) / f"{engine.global_rank}.json").write_text(json.dumps(times))


def build(given: dict[str, Any]) -> Any:
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    # Without this line each start loads, and the first one compiles, an operator that only inference uses: in bare's favour.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")
    sharded_load = HfDeepSpeedConfig(given["deepspeed"]) if given["stage"] == 3 else None
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=getattr(torch, given["precision"]))
    model.config.use_cache = False
    num_trained = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    bucket = min(num_trained, 500_000_000)  # as serinus has it
    given["deepspeed"]["zero_optimization"].setdefault("reduce_bucket_size", bucket)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=given["deepspeed"])
    del sharded_load
    engine.train()
    return engine


def batches(engine: Any, given: dict[str, Any], times: dict[str, Any]) -> Any:
    """This rank's batches from step `first` on. Rank 0 tokenises where nobody has yet."""
    import torch.distributed as dist
    from torch.utils.data import DataLoader

    kept = Path(given["tokens"])
    if engine.global_rank == 0 and not kept.exists():
        begun = time.time()
        np.save(kept, tokenize(given))
        times["tokenised_s"] = time.time() - begun
    dist.barrier()
    sequences = Sequences(np.load(kept, mmap_mode="r"), given["length"], given["end"] if given["apart"] else None)
    order = np.random.default_rng([given["seed"], 0]).permutation(len(sequences))
    rows, per_step = given["sequences"], given["sequences"] * engine.world_size
    firsts = [step * per_step + engine.global_rank * rows for step in range(given["first"], given["last"])]
    return DataLoader(sequences, batch_sampler=[order[at : at + rows].tolist() for at in firsts])


def tokenize(given: dict[str, Any]) -> Any:
    """All documents, each followed by the token that ends it."""
    from transformers import AutoTokenizer

    texts = json.loads(Path(given["documents"]).read_text())
    found = AutoTokenizer.from_pretrained(given["model"])(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return np.fromiter((token for tokens in found for token in (*tokens, given["end"])), dtype=np.int32)


class Sequences:
    """Of equal length; the last one goes on with the beginning. A torch Dataset by its two methods.

    Args:
        end: the token behind which positions begin at 0 and the next token is no target, or None.
    """

    def __init__(self, tokens: Any, length: int, end: int | None) -> None:
        self.tokens, self.length, self.end = tokens, length, end

    def __len__(self) -> int:
        return (len(self.tokens) + self.length - 1) // self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        at = np.arange(number * self.length, (number + 1) * self.length)
        tokens = np.take(self.tokens, at, mode="wrap").astype(np.int64)
        if self.end is None:
            return {"input_ids": tokens, "labels": tokens}
        begins, index = np.concatenate([[True], tokens[:-1] == self.end]), np.arange(self.length)
        places = index - np.maximum.accumulate(np.where(begins, index, 0))
        return {"input_ids": tokens, "position_ids": places, "labels": np.where(begins, -100, tokens)}


def train(engine: Any, loader: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Steps `first` to `last`; what was noted of them."""
    noted = Noted(given["asked"])
    for step, batch in enumerate(loader, given["first"]):
        for group in engine.optimizer.param_groups:
            group["lr"] = given["rates"][step]
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        noted.step(loss.item())
    return noted.times


if __name__ == "__main__":
    main(sys.argv[1])
