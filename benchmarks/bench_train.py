"""What does serinus' train stage cost beside the same training without Ray and without serinus?

    python benchmarks/bench_train.py [--repeats 3] [--apart] [--model FOLDER|FILE.gguf] [--out FILE.jsonl] [--folder KEPT]

Two CPU ranks (`--ranks`) of one thread, ZeRO stage 3, gloo. Ray's own processes take a tenth of a core: where ranks want all
cores (two ranks on two) that is time of theirs. `--cores 0` keeps the ranks of all sides on core 0 and so tells what remains
with a core to spare, as machines with GPUs have it; `--ranks 1` does so without collectives. All sides have the
same model (a random Llama of 28 M parameters, in float32), the DeepSpeed dictionary that serinus derives, the same documents
(CPython's help topics) in the same sequences and order, and the same learning rates; that their losses are the same is checked. A
side trains `--steps` steps, writes a checkpoint, and is started once more to go on from there. Sides take turns, and the order is
turned around from one repeat to the next:

- serinus: the stage as `serinus run` has it (train_serinus.py): Ray Train on a private cluster, tokens kept in the storage,
  progress, TensorBoard's files, the guard against spikes, checksums of sequences.
- bare: a script with transformers, DeepSpeed and torch's DataLoader under torchrun (train_bare.py), with the environment that
  serinus gives its workers (glibc keeps freed memory; one thread, which torchrun sets for more than one rank alone).
- plain: the same script with nothing set but what torchrun sets itself.

Compared:
- tokens/s of all ranks together: by the median over steps, from the end of one to the end of the next, on rank 0 and without
  the first three; so the input pipeline and all that is done between steps are in it. Beside it CPU seconds of a step: of a rank,
  and of all processes of the side (Ray's, the driver, torchrun), which other work on the machine changes less than time.
- resume to first step: from the start of rank 0's process to the end of its first step behind the checkpoint. What comes before
  that process (Ray's start, torchrun's) is stated apart, and so is tokenising, which both sides do once and keep.

With --apart documents do not look at each other in a sequence (serinus' default); without it they do, as in most scripts.
With --out the same command adds repeats to those that the file has. With --summary it only reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

WARM_UP = 3
"""Steps that are not measured: memory is allocated in them, and threads start."""
MARKS = ("entered", "built", "loaded", "first_step")
"""What a rank's process has come to: the function to train in, the model under DeepSpeed, its checkpoint, the end of a step."""
SIDES = ("serinus", "bare", "plain")
SHAPE = {
    "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 8, "intermediate_size": 1408,
    "vocab_size": 8192, "max_position_embeddings": 1024, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


class World(NamedTuple):
    """What all sides share."""

    folder: Path
    storage: Any
    dataset: str
    """Its key in the storage."""
    base: Any
    """Manifest of the model."""
    end: int
    """Token behind each document."""
    cores: tuple[int, ...] = ()
    """Those that ranks are kept on; none: they go where the kernel puts them."""


def texts() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def save_model(folder: Path) -> None:
    """A tokenizer of the texts, and a random Llama."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)


def prepare(folder: Path, model: Path | None) -> World:
    """Model and documents in a storage; made once in a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from cluster.artifacts import Dataset, load, save
    from cluster.storage import LocalStorage
    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig
    from pipelines.training.tokens import end_of_text

    storage, key = LocalStorage(folder / "storage"), "0123456789abcdef"
    if model is None and not (model := folder / "random").exists():
        save_model(model)
    base = import_model(ModelConfig(source=str(model)), storage)
    if load(storage, Dataset, key) is None:
        num, found = len(texts()), texts()
        made = Dataset(key=key, num_train=num, num_documents=num, num_characters_kept=sum(map(len, found)))
        train = storage.root / made.location / "train"
        train.mkdir(parents=True)
        rows = [{"id": str(number), "text": text} for number, text in enumerate(found)]
        pq.write_table(pa.Table.from_pylist(rows), train / "00000.parquet")
        save(storage, made)
    (folder / "documents.json").write_text(json.dumps(texts()))
    local = storage.root / base.folder
    return World(folder, storage, key, base, end_of_text(AutoTokenizer.from_pretrained(local), local))


def training(given: argparse.Namespace, seed: int) -> Any:
    """As a recipe's `train`. The checkpoint lies behind the steps that are measured; two more steps stand behind it."""
    from pipelines.config import TrainConfig

    return TrainConfig.model_validate(
        {
            "num_workers": given.ranks, "gpus_per_worker": 0, "zero": {"stage": given.stage}, "precision": "float32",
            "sequence_length": given.length, "sequences_per_worker": given.sequences, "learning_rate": 3e-4,
            "num_steps": given.steps + 2, "warmup_steps": 2, "checkpoint_every_steps": given.steps, "max_failures": 0,
            "attend_across_documents": not given.apart, "seed": seed,
        }
    )  # fmt: skip


def run(side: str, world: World, config: Any, resume: bool, out: Path) -> dict[str, Any]:
    """One start of that side: what its ranks noted, and when the command began."""
    out.mkdir(parents=True)
    settings = (_of_serinus if side == "serinus" else _of_bare)(world, config, resume, out)
    (out / "settings.json").write_text(json.dumps(settings))
    script = Path(__file__).with_name("train_serinus.py" if side == "serinus" else "train_bare.py")
    runner = [sys.executable]
    if side != "serinus":
        runner += [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(config.num_workers),
            "--master-port",
            str(free_port()),
        ]
    begun = time.time()
    with (out / "log").open("wb") as log:
        command = [*runner, str(script), str(out / "settings.json")]
        status = subprocess.run(command, env=_environment(side), stdout=log, stderr=log, check=False).returncode
    if status:
        sys.exit(f"{side} ended with {status}:\n" + (out / "log").read_text(errors="replace")[-4000:])
    ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(config.num_workers)]
    driver = json.loads((out / "driver.json").read_text()) if side == "serinus" else {}
    return {"begun": begun, "driver": driver, "ranks": ranks}


def _environment(side: str) -> dict[str, str]:
    from cluster.session import KEEP_MEMORY

    names = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    names |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    return os.environ | names | (KEEP_MEMORY | {"OMP_NUM_THREADS": "1"} if side == "bare" else {})


def _of_serinus(world: World, config: Any, resume: bool, out: Path) -> dict[str, Any]:
    """The first start ends one step behind the checkpoint, so that Ray Train has surely noted it."""
    asked = _asked(world, config) | {"stop": None if resume else config.checkpoint_every_steps + 1}
    names = {"storage": str(world.storage.root), "dataset": world.dataset, "base": world.base.key, "out": str(out)}
    return {**names, "config": config.model_dump(mode="json"), "asked": asked}


def _asked(world: World, config: Any) -> dict[str, Any]:
    """Of Noted in train_times.py."""
    return {"marks": [WARM_UP, config.checkpoint_every_steps], "bench": os.getpid(), "cores": world.cores}


def _of_bare(world: World, config: Any, resume: bool, out: Path) -> dict[str, Any]:
    from pipelines.training.schedule import learning_rate
    from pipelines.training.zero3 import deepspeed_config

    steps = config.checkpoint_every_steps
    return {
        "model": str(world.storage.root / world.base.folder), "documents": str(world.folder / "documents.json"), "end": world.end,
        "tokens": str(world.folder / "tokens.npy"), "deepspeed": deepspeed_config(config), "stage": config.zero.stage,
        "precision": config.precision, "length": config.sequence_length, "sequences": config.sequences_per_worker,
        "apart": not config.attend_across_documents, "seed": config.seed,
        "rates": [learning_rate(config, step) for step in range(config.num_steps)],
        "first": steps if resume else 0, "last": config.num_steps if resume else steps, "resume": resume,
        "checkpoint": str(out.parent / "checkpoint"), "out": str(out), "asked": _asked(world, config),
    }  # fmt: skip


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def measure(side: str, world: World, given: argparse.Namespace, repeat: int, seed: int) -> dict[str, Any]:
    """Both starts of a side, as figures."""
    config = training(given, seed)
    with tempfile.TemporaryDirectory(dir=world.folder) as temporary:
        first = run(side, world, config, False, Path(temporary) / "first")
        again = run(side, world, config, True, Path(temporary) / "again")
    tokens = config.num_workers * config.sequences_per_worker * config.sequence_length
    return {"side": side, "repeat": repeat, **steady(first, given.steps, tokens), **resumed(again), **once(first)}


def steady(found: dict[str, Any], steps: int, tokens: int) -> dict[str, Any]:
    """Of the steps behind the first few: tokens/s, and what a step took.

    Args:
        tokens: of a step, over all ranks.
    """
    ends = found["ranks"][0]["ends"][WARM_UP : steps + 1]
    each = [later[0] - earlier[0] for earlier, later in pairwise(ends)]
    cpu = [(rank["ends"][steps][1] - rank["ends"][WARM_UP][1]) / len(each) for rank in found["ranks"]]
    before, after = found["ranks"][0]["side_cpu_s"]
    losses = [statistics.fmean(of_step) for of_step in zip(*(r["losses"][:steps] for r in found["ranks"]), strict=True)]
    return {
        "step_s": each,
        "tokens_per_s": tokens / statistics.median(each),
        "mean_tokens_per_s": tokens / statistics.fmean(each),
        "rank_cpu_s": statistics.fmean(cpu),
        "cpu_s": (after - before) / len(each),
        "faults": (ends[-1][2] - ends[0][2]) / len(each),
        "losses": losses,
    }


def resumed(found: dict[str, Any]) -> dict[str, Any]:
    """Seconds, and CPU seconds, since rank 0's process began, by what was done; seconds from the command to that process."""
    rank = found["ranks"][0]
    marks = {name: rank[name] for name in MARKS[:-1]} | {MARKS[-1]: rank["ends"][1]}
    until = {f"{name}_s": at[0] - rank["began"] for name, at in marks.items()}
    return {
        **until,
        **{f"{name}_cpu_s": at[1] for name, at in marks.items()},
        "before_s": rank["began"] - found["begun"],
    }


def once(found: dict[str, Any]) -> dict[str, float]:
    """Seconds of tokenising, where this start did it."""
    where = [found["driver"], *found["ranks"]]
    return {"tokenised_s": max((one["tokenised_s"] for one in where if "tokenised_s" in one), default=0.0)}


def told(figures: dict[str, Any]) -> str:
    """One side's figures."""
    until = ", ".join(f"{name} {figures[name + '_s']:.1f} ({figures[name + '_cpu_s']:.1f} CPU)" for name in MARKS)
    return (
        f"{figures['repeat']:3} {figures['side']:8} {figures['tokens_per_s']:7.1f} tokens/s (by the mean"
        f" {figures['mean_tokens_per_s']:7.1f}); a step: {figures['rank_cpu_s']:.3f} CPU-s of a rank, {figures['cpu_s']:.3f} in"
        f" all, {figures['faults']:.0f} faults\n{'':13}resumed, seconds: {until}; {figures['before_s']:.1f} before the process;"
        f" tokenising {figures['tokenised_s']:.1f}"
    )


def summary(found: list[dict[str, Any]]) -> Iterable[str]:
    """serinus beside each other side: medians of the ratios of one repeat each, with the least and the most."""
    repeats = [
        {one["side"]: one for one in found if one["repeat"] == number} for number in {f["repeat"] for f in found}
    ]
    for other in (name for name in SIDES[1:] if any({"serinus", name} <= sides.keys() for sides in repeats)):
        pairs = [(sides["serinus"], sides[other]) for sides in repeats if {"serinus", other} <= sides.keys()]
        yield f"serinus / {other}, {len(pairs)} repeats: " + "; ".join(
            f"{what} {_range([ours[name] / theirs[name] for ours, theirs in pairs])}"
            for what, name in (
                ("tokens/s", "tokens_per_s"),
                ("by the mean", "mean_tokens_per_s"),
                ("CPU of a rank", "rank_cpu_s"),
                ("CPU of all processes", "cpu_s"),
                ("resume to first step", "first_step_s"),
                ("its CPU", "first_step_cpu_s"),
            )
        )
        apart = max(
            abs(a / b - 1) for ours, theirs in pairs for a, b in zip(ours["losses"], theirs["losses"], strict=True)
        )
        yield f"  largest relative distance of a step's loss: {apart:.1e}"


def _range(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="another one than the random Llama")
    parser.add_argument("--stage", type=int, choices=range(4), default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--cores", type=int, nargs="+", default=[], help="where ranks are kept, of all sides")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=2, help="a rank and step")
    parser.add_argument("--apart", action="store_true", help="documents do not look at each other")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--folder", type=Path, help="where model and tokens are kept; default: a temporary one")
    parser.add_argument("--out", type=Path, help="a JSON line for each side and repeat is added")
    parser.add_argument("--summary", action="store_true", help="only of what --out holds")
    given = parser.parse_args()
    found = (
        [json.loads(line) for line in given.out.read_text().splitlines()] if given.out and given.out.exists() else []
    )
    if not given.summary:
        with tempfile.TemporaryDirectory() as temporary:
            compare(given, given.folder or Path(temporary), found)
    print("\n".join(summary(found)))


def compare(given: argparse.Namespace, folder: Path, found: list[dict[str, Any]]) -> None:
    """Measure, and add to what was found."""
    from bench_gateway import machine

    from cluster.session import prepare_environment

    prepare_environment()  # transformers may import Ray, which reads then whether it is to show a token
    folder.mkdir(parents=True, exist_ok=True)
    world = prepare(folder, given.model)._replace(cores=tuple(given.cores))
    print(f"{machine()}\n{world.base.num_parameters / 1e6:.1f} M parameters, ZeRO {given.stage}, "
          f"{given.ranks} x {given.sequences} x {given.length} tokens a step"
          + (f", ranks on core {', '.join(map(str, world.cores))}" if world.cores else ""), flush=True)  # fmt: skip
    begins = 1 + max((one["repeat"] for one in found), default=0)
    for repeat in range(begins, begins + given.repeats):
        sides, seed = given.sides.split(","), int(time.time())  # a run that the storage knows would be found
        for side in sides if repeat % 2 else sides[::-1]:
            figures = measure(side, world, given, repeat, seed)
            found.append(figures)
            print(told(figures), flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
