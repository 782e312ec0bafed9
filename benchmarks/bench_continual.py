"""What a model forgets when it learns something new, and what holds it: plain fine-tuning, EWC at several weights, replay and LoRA.

    python recipes/quickstart/prepare.py
    python benchmarks/bench_continual.py FOLDER [--data ../shared/data] [--sides base,plain,ewc:1e6,replay,lora]

The model is SmolLM2-135M-Instruct. What it knew before: to answer instructions in its own format (1,100 with answers; it was tuned
for that). What is new: German news (WMT 22's German sides). It was trained on English, so there is much to gain, and plain text of
another language is a usual way to spoil a chat model. English web text would not do as the old task: its perplexity (C4) fell
while it learnt German. Two thirds of each are for training (of the old: for Fisher's diagonal, and for replay); every third
document is held out, and measured.

Every side is trained by serinus' own loop on one CPU rank, with the same documents, steps and seed, in a process of its own. A side
that FOLDER has already is not made again, unless a setting has changed. Figures:

- old, new: perplexity of held-out sequences, by token.
- retention: old perplexity before / after, as the gate counts recovery. +- is a standard error over sequences, paired.
- gain: nats a token that new text became likelier by, as a share of what plain fine-tuning gains.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cluster import session
from cluster.artifacts import digest
from cluster.config import home
from cluster.storage import open_storage
from pipelines.base_model import as_folder
from pipelines.config import TrainConfig
from pipelines.training.batches import Batches, Packed, Replay
from pipelines.training.packing import Share, Stream
from pipelines.training.retention import Told, told

ROOT = Path(__file__).resolve().parent.parent
GGUF = ROOT / "build" / "quickstart" / "SmolLM2-135M-Instruct.gguf"
SIDES = "base,plain,ewc:1e5,ewc:1e6,ewc:1e7,replay,lora"
NO_DATASET = "0" * 16
"""The loop is given its documents here, not by a dataset's key."""
MEASURED = {"old": 48, "new": 24}
"""Held-out sequences."""
FISHER_AT_ONCE = 4
"""Sequences whose gradients are added up, with signs, before they are squared."""
LINES = 8
"""Of news in a document."""


def old_documents(data: Path) -> list[str]:
    """An instruction and its answer each, as the model was tuned to see them; without the system's words, which say nothing new."""
    text = (data / "instruct_rasbt" / "instruction-data.json").read_text(encoding="utf-8")
    return [
        f"<|im_start|>user\n{' '.join((one['instruction'], one['input'])).strip()}<|im_end|>\n"
        f"<|im_start|>assistant\n{one['output']}<|im_end|>"
        for one in json.loads(text)
    ]


def new_documents(data: Path) -> list[str]:
    """Sentences stand in the order of their articles."""
    folder = data / "wmt22" / "txt"
    files = (
        folder / "sources" / "generaltest2022.de-en.src.de",
        folder / "references" / "generaltest2022.en-de.ref.A.de",
    )
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return ["\n".join(lines[at : at + LINES]) for at in range(0, len(lines), LINES)]


class Texts:
    """Old and new documents as sequences, for training and for measuring. Every third document is held out."""

    def __init__(self, data: Path, model: Path, length: int) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self._end, self._length = self._tokenizer.get_vocab()["<|endoftext|>"], length
        old, new = old_documents(data), new_documents(data)
        self.old, self.new = (self._packed([d for n, d in enumerate(some) if n % 3 != 2]) for some in (old, new))
        self.held_old, self.held_new = self._packed(old[2::3]), self._packed(new[2::3])

    def _packed(self, documents: list[str]) -> Packed:
        lists = self._tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
        tokens = np.fromiter((token for one in lists for token in (*one, self._end)), dtype=np.uint16)
        return Packed(Stream([tokens]), self._length, self._end)


def settings(side: str, asked: argparse.Namespace) -> TrainConfig:
    """What that side is trained by. Those of `base` are plain's; no step is taken."""
    kind, _, value = side.partition(":")
    fields: dict[str, Any] = {
        "num_workers": 1,
        "gpus_per_worker": 0,
        "cpus_per_worker": os.cpu_count() or 1,
        "zero": {"stage": 1},
        "precision": "float32",
        "num_steps": asked.steps,
        "warmup_steps": max(1, asked.steps // 10),
        "sequence_length": asked.length,
        "sequences_per_worker": 2,
        "learning_rate": asked.learning_rate,
    }
    match kind:
        case "ewc":
            # Fisher's diagonal is of as many sequences as replay sees, or more.
            asked_of_old = {"dataset": NO_DATASET, "weight": float(value), "num_sequences": asked.fisher_sequences}
            fields["consolidation"] = asked_of_old
        case "replay":
            fields["replay"] = {"dataset": NO_DATASET, "fraction": float(value or 0.2)}
        case "lora":
            fields |= {"lora": {"rank": 16, "alpha": 32}, "learning_rate": float(value or 10 * asked.learning_rate)}
        case "plain":
            fields["learning_rate"] = float(value or asked.learning_rate)
        case "base":
            pass
        case _:
            raise SystemExit(
                f"--sides: {side}: give base, plain, ewc:WEIGHT, replay, replay:FRACTION, lora or lora:RATE"
            )
    return TrainConfig.model_validate(fields)


def measure(side: str, asked: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Train that side in this process, by the loop that a rank of a run goes through, and measure the model."""
    from pipelines.training.checkpoint import Record
    from pipelines.training.consolidation import hold
    from pipelines.training.engine import build_engine
    from pipelines.training.train_steps import train_steps

    config, texts = settings(side, asked), Texts(asked.data, model, asked.length)
    began = time.monotonic()
    engine = build_engine(config, model)
    share = Share(0, 1, config.sequences_per_worker, config.accumulation)
    source = Replay(texts.new, texts.old, config.replay.fraction) if config.replay else texts.new
    if config.consolidation:
        hold(engine, fisher_of_old(engine, texts.old, config, asked), config.consolidation.weight)
        say(side, f"Fisher's diagonal after {time.monotonic() - began:.0f} s")
    losses: list[float] = []
    if side != "base":
        for done, _ in train_steps(engine, config, Batches(source, share, config.seed), Record(), Nowhere()):
            losses.append(done.losses[-1].loss)
            if done.step % 10 == 0:
                say(side, f"step {done.step}: loss {losses[-1]:.3f}, {time.monotonic() - began:.0f} s")
    held = {"old": texts.held_old, "new": texts.held_new}
    found = {name: told(engine, some, MEASURED[name], 8) for name, some in held.items()}
    return {
        "side": side,
        **{name: one._asdict() for name, one in found.items()},
        "losses": losses,
        "took_s": round(time.monotonic() - began, 1),
    }


def fisher_of_old(engine: Any, old: Packed, config: TrainConfig, asked: argparse.Namespace) -> dict[Any, Any]:
    """Fisher's diagonal, made by the first side that needs it: it is the same for every weight."""
    import torch

    from pipelines.training import importance, layout
    from pipelines.training.consolidation import fisher_diagonal

    num = asked.fisher_sequences
    folder = asked.folder / f"fisher-{num}-{asked.length}"
    if (folder / "0.json").exists():
        found = {one.tensor: torch.zeros_like(one.tensor, requires_grad=False) for one in layout.masters(engine)}
        importance.Earlier(folder, 1, 1.0).add_to(found, engine)
        return found
    found = fisher_diagonal(engine, Batches(old, Share(0, 1, 1, FISHER_AT_ONCE), config.seed), num)
    folder.mkdir(exist_ok=True)
    importance.write(engine, found, folder)
    return found


class Nowhere:
    """No checkpoints: a loss that breaks ends the side."""

    def kept(self) -> list[Any]:
        return []

    def read(self, engine: Any, place: int) -> Any:
        raise AssertionError("there is nothing to go back to")


def say(side: str, what: str) -> None:
    print(f"{side:10} {what}", file=sys.stderr, flush=True)


def made(asked: argparse.Namespace, model: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """What there is of all sides, after each one."""
    results: dict[str, dict[str, Any]] = {}
    asked.folder.mkdir(parents=True, exist_ok=True)
    for side in asked.sides.split(","):
        config = settings(side, asked).model_dump(mode="json")
        path = asked.folder / f"{side.replace(':', '-')}-{digest([config, MEASURED])[:8]}.json"
        if not path.exists():
            _in_its_own_process(side, path, model)
        results[side] = json.loads(path.read_text())
        yield results


def _in_its_own_process(side: str, path: Path, model: Path) -> None:
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    own = {**names, **session.KEEP_MEMORY, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, *sys.argv[1:], "--one", side, "--model", str(model)]
    done = subprocess.run(command, env={**os.environ, **own}, stdout=subprocess.PIPE, check=True, text=True)
    result = done.stdout.strip().splitlines()[-1]
    json.loads(result)
    path.write_text(result + "\n")


def table(results: dict[str, dict[str, Any]]) -> str:
    """One line a side; empty cells where base or plain is not there yet."""
    lines = ["| side | old | retention | new | gain | took |", "|---|---|---|---|---|---|"]
    base, plain = results.get("base"), next((r for side, r in results.items() if side.startswith("plain")), None)
    for side, one in results.items():
        retention = "" if base is None else f"{100 * math.exp(_lost(base, one)):.1f} % +- {100 * _error(base, one):.1f}"
        gain = "" if base is None or plain is None else f"{100 * _gained(base, one) / _gained(base, plain):.0f} %"
        old, new = (math.exp(_told(one, name).mean) for name in ("old", "new"))
        lines.append(f"| {side} | {old:.2f} | {retention} | {new:.2f} | {gain} | {one['took_s']:.0f} s |")
    return "\n".join(lines)


def _told(one: dict[str, Any], name: str) -> Told:
    return Told(**one[name])


def _lost(base: dict[str, Any], one: dict[str, Any]) -> float:
    """Nats a token, negative where the model got worse."""
    return _told(base, "old").mean - _told(one, "old").mean


def _gained(base: dict[str, Any], one: dict[str, Any]) -> float:
    return _told(base, "new").mean - _told(one, "new").mean


def _error(base: dict[str, Any], one: dict[str, Any]) -> float:
    """Standard error of the retention: of the mean difference over sequences, which hold nearly as many targets each."""
    before, after = _told(base, "old"), _told(one, "old")
    differences = [(b - a) / n for b, a, n in zip(before.losses, after.losses, before.num_targets, strict=True)]
    return math.exp(_lost(base, one)) * statistics.stdev(differences) / math.sqrt(len(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where each side's figures are kept")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sides", default=SIDES)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence; a step takes 2")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="LoRA's is ten times as high")
    parser.add_argument("--fisher-sequences", type=int, default=48)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: the quickstart's")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one, asked, asked.model)))
        return
    model = asked.model or as_folder(GGUF, open_storage(str(home() / "models")))
    for results in made(asked, model):
        print(table(results), flush=True)


if __name__ == "__main__":
    main()
