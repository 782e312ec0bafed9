"""What `serinus train plan` predicts of memory, beside what ranks on CPUs then take: `python benchmarks/bench_train_plan.py`.

With a word behind it only configurations that have it in their name: `bench_train_plan.py tensor`.

A random Llama of about 30 M parameters, three optimizer steps in each configuration; gloo, one process a rank, forked from one
that has imported torch and DeepSpeed, with the allocator's settings that the train stage gives its workers on CPUs. Compared:
- states: bytes of the tensors that stay (weights, float32 masters, Adam's moments), counted on each rank; gradients are left
  out, which come and go;
- peak: the most memory that a rank had handed out at once during the steps (mallinfo2, looked at every 2 ms), less what it had
  before the model was built; gloo's buffers and oneDNN's scratch are in it, of which the plan knows nothing.
- resident: the most memory of its own (RssAnon), less what it had before: freed memory that glibc keeps is in it, which lies in
  pieces between what is in use; not the pages of libraries and of the model's file, which all ranks of a machine share.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cluster.session import KEEP_MEMORY  # noqa: E402

MIB = 2**20
SHAPE = {
    "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 8, "intermediate_size": 1408,
    "vocab_size": 8192, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = {"precision": "float32", "sequences_per_worker": 1, "sequence_length": 64}
"""Of a batch so small that gradients take more than activations."""
BUCKET = {"extra": {"zero_optimization": {"reduce_bucket_size": 1_000_000}}}
CASES: tuple[dict[str, Any], ...] = (
    {"num_workers": 1, "zero": {"stage": 0}, "precision": "float32"},
    *({"num_workers": num, "zero": {"stage": stage}, "precision": "float32"} for num in (2, 4) for stage in range(4)),
    {"num_workers": 2, "zero": {"stage": 3}, "precision": "float32", "gradient_checkpointing": True},
    {"num_workers": 2, "parallel": {"tensor": 2}, "zero": {"stage": 1}, "precision": "float32"},
    *({**SMALL, "num_workers": num, "zero": {"stage": stage}} for num in (1, 2) for stage in range(4)),
    *({**SMALL, "num_workers": 2, "zero": {"stage": stage}, "precision": "bfloat16"} for stage in range(4)),
    *({**SMALL, "num_workers": 2, "zero": {"stage": stage, **BUCKET}} for stage in range(4)),
    *(
        {"num_workers": 2, "zero": {"stage": stage}, "precision": "float32", "gradient_accumulation": 2}
        for stage in (0, 1, 3)
    ),
    *({"num_workers": 2, "zero": {"stage": stage}, "precision": "bfloat16"} for stage in range(4)),
)


def settings(case: dict[str, Any]) -> Any:
    from pipelines.config import TrainConfig

    fixed = {"gpus_per_worker": 0, "sequence_length": 256, "sequences_per_worker": 4, "num_steps": 3, "warmup_steps": 0}
    return TrainConfig.model_validate({**fixed, **case})


def rank(number: int, port: int, case: dict[str, Any], folder: Path, out: Path) -> None:
    """Train three steps, and write bytes of what stays, and of memory in use and resident, at most."""
    import numpy as np

    from pipelines.training.batches import Batches, Packed
    from pipelines.training.checkpoint import Record, Reported
    from pipelines.training.engine import build_engine
    from pipelines.training.packing import Share, Stream
    from pipelines.training.parallel import replica
    from pipelines.training.train_steps import train_steps

    names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": case["num_workers"], "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"})
    before, config = _taken(), settings(case)
    engine = build_engine(config, folder)
    tokens = np.random.default_rng(0).integers(3, 8000, 40_000).astype("<u2")
    tokens[::100] = 0  # ends documents
    share = Share(*replica(engine), config.sequences_per_worker, config.accumulation)
    batches = Batches(Packed(Stream([tokens]), config.sequence_length, 0), share, 0)
    with _watched() as most:  # loading is not what is predicted
        for _ in train_steps(engine, config, batches, Record(), Reported()):
            pass
    peak, resident = (at_most - first for at_most, first in zip(most, before, strict=True))
    peak += _mapped(engine)
    found = {"states": _states(engine), "before": before[1], "peak": peak, "resident": resident}
    (out / f"{number}.json").write_text(json.dumps(found))


def _states(engine: Any) -> int:
    from pipelines.training import layout

    weights = [getattr(p, "ds_tensor", p) for p in engine.module.parameters()]
    masters = [master.tensor for master in layout.masters(engine)]
    moments = [v for state in layout.states(engine).values() for k, v in state.items() if k.startswith("exp_avg")]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*weights, *masters, *moments)}
    return sum(storages.values())


def _mapped(engine: Any) -> int:
    """Bytes of weights that lie in the pages of the model's file, as transformers loads them, until something replaces them. The
    allocator knows nothing of them; the optimizer writes to them, so that they become this process's own."""
    names = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".safetensors")]
    ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in names]
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in engine.module.parameters()}
    return sum(size for start, size in weights.items() if any(low <= start < high for low, high in ranges))


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The most memory that this process had in use meanwhile, and resident."""
    most, ended = [0, 0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            most[:] = map(max, most, _taken())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()


class Mallinfo2(ctypes.Structure):
    """man 3 mallinfo: of the first arena, the only one that there is with the stage's settings."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )  # fmt: skip


def _taken() -> tuple[int, int]:
    """Bytes that are handed out now; bytes resident and anonymous (man 5 proc)."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    info, lines = mallinfo2(), Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return info.uordblks + info.hblkhd, resident


def measure(case: dict[str, Any], folder: Path) -> list[dict[str, int]]:
    """Of each rank, forked from this process, which has imported all they need."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as temporary:
        out, numbers = Path(temporary), range(case["num_workers"])
        ranks = [fork.Process(target=rank, args=(number, port, case, folder, out)) for number in numbers]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout=600)
            process.kill()
        return [json.loads((out / f"{number}.json").read_text()) for number in numbers]


def _save_model(folder: Path) -> None:
    """In a process of its own: its memory would be in what ranks begin with, and threads of torch do not survive a fork."""

    def save() -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)

    process = multiprocessing.get_context("fork").Process(target=save)
    process.start()
    process.join()


def main() -> None:
    if os.environ.get("MALLOC_ARENA_MAX") != "1":  # glibc reads them when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    import deepspeed  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from pipelines.training.memory import memory
    from pipelines.training.shape import read_shape

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _save_model(folder)
        shape = read_shape(str(folder))
        print(
            f"{shape.num_parameters / 1e6:.1f} M parameters; MiB a rank: predicted / measured (ratio); resident; before the model"
        )
        for case in (case for case in CASES if "".join(sys.argv[1:]) in name_of(case)):
            found = measure(case, folder)
            planned = memory(shape, settings(case))
            states = planned.states - planned.gradients
            held = max(one["states"] for one in found)
            peak, resident, before = (max(one[name] for one in found) for name in ("peak", "resident", "before"))
            print(
                f"{name_of(case):36} states {_pair(states, held)}   peak {_pair(planned.peak, peak)}   "
                f"{resident / MIB:5.0f}   {before / MIB:5.0f}",
                flush=True,
            )


def name_of(case: dict[str, Any]) -> str:
    how = " checkpointing" if case.get("gradient_checkpointing") else ""
    how += f" tensor {case['parallel']['tensor']}" if "parallel" in case else ""
    how += f" {case['sequence_length']} tokens" if "sequence_length" in case else ""
    how += f" {case['gradient_accumulation']} micro-batches" if "gradient_accumulation" in case else ""
    how += " small bucket" if "extra" in case["zero"] else ""
    return f"{case['num_workers']} x ZeRO {case['zero']['stage']} {case['precision']}{how}"


def _pair(predicted: float, measured: float) -> str:
    return f"{predicted / MIB:6.0f} / {measured / MIB:6.0f} ({predicted / measured:4.2f})"


if __name__ == "__main__":
    main()
