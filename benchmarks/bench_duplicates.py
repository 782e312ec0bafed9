"""Memory and time of finding duplicates among many documents: the driver, one band's task, all bands in one process, and one task
of those that look for repeated lines.

    python benchmarks/bench_duplicates.py [--documents 1000000] [--alike 0.3]

Signatures are made up: a share of the documents is like an earlier one in one band, the others are like none; the same share of the
lines, ten a document, stands in several. Each side is a
process of its own; memory is its peak above what it had with everything imported and read (signatures and rows lie in mapped
files here, in Ray's object store in a cleaning).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NUM_BANDS, BLOCK, NUM_LINES = 14, 2_048, 10
SIDES = ("driver", "task", "all", "lines")


def generate(folder: Path, num: int, alike: float) -> None:
    """Keys by block, and the rows that the driver holds; the pairs of all tasks for the side that does not find them."""
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 2**64, (num, NUM_BANDS), np.uint64)
    copies = np.flatnonzero(rng.random(num) < alike)[1:]
    originals = (rng.random(len(copies)) * copies).astype(np.int64)
    band = rng.integers(0, NUM_BANDS, len(copies))
    bands[copies, band] = bands[originals, band]
    prints = rng.integers(0, 2**64, (num, 2), np.uint64)
    lines = rng.integers(0, 2**64, (num, NUM_LINES), np.uint64)
    again = rng.random(lines.shape) < alike
    lines[again] = lines.ravel()[rng.integers(0, num, again.sum())]
    held = {"fingerprint": prints, "bands": bands, "lines": lines}
    binary = {name: [row.tobytes() for row in rows] for name, rows in held.items()}
    empty = pa.array([""] * num)
    table = pa.table({"reason": empty, **{name: pa.array(values, pa.binary()) for name, values in binary.items()}})
    write(folder / "keys.arrow", table, BLOCK)
    ids = [f"documents/part-{i // 50_000:04d}.jsonl#{i}" for i in range(num)]
    held = {"id": ids, "reason": empty, "detail": empty, "fingerprint": table["fingerprint"]}
    write(folder / "documents.arrow", pa.table(held), num)


def write(path: Path, table: pa.Table, rows: int) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def resident(table: pa.Table) -> pa.Table:
    """The table, with all of its pages in memory: what is read is not what is measured."""
    for column in table.columns:
        for chunk in column.chunks:
            _ = [np.frombuffer(buffer, np.uint8).sum() for buffer in chunk.buffers() if buffer]
    return table


def peak_bytes(*, begin: bool = False) -> int:
    """Linux alone. The peak that `getrusage` tells is that of the parent where it was higher."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(side: str, folder: Path) -> dict[str, Any]:
    from scipy.sparse import csgraph  # noqa: F401  # imported where it is used, by both sides

    from pipelines.config import DataConfig, RepeatsConfig, SourceConfig
    from pipelines.data.decide import decide, without_duplicates
    from pipelines.data.dedup import Links
    from pipelines.data.duplicates import Task, joined, link
    from pipelines.data.repeats import find, tasks

    keys = [pa.Table.from_batches([batch]) for batch in resident(mapped(folder / "keys.arrow")).to_batches()]
    documents = resident(mapped(folder / "documents.arrow"))
    before, began = peak_bytes(begin=True), time.process_time()
    starts = tuple(accumulate([len(table) for table in keys[:-1]], initial=0))
    config = DataConfig(sources=(SourceConfig(path="x"),))
    if side == "lines":
        (task, *others), alive = (
            tasks("lines", RepeatsConfig(), NUM_LINES * len(documents)),
            np.ones(len(documents), np.bool_),
        )
        num = len(find(task, alive, *keys))
        spent = {"bytes": peak_bytes() - before, "cpu_s": time.process_time() - began}
        return {**spent, "told": f"1 of {1 + len(others)} tasks, {num} lines to go"}
    found = []
    if side != "driver":
        bands = tuple(range(NUM_BANDS)) if side == "all" else (0,)
        found = [link(Task(starts, bands, side == "all", NUM_BANDS, "unused", ()), *keys)]
    elif (pairs := np.load(folder / "pairs.npy")).size:
        found = [Links(pairs[:, :0], pairs)]
    if side == "all":
        np.save(folder / "pairs.npy", found[0].near)
    told = ""
    if side != "task":
        decisions = decide(documents, config, without_duplicates(documents, joined(found)))
        told = f"{decisions['split'].to_pylist().count('excluded')} excluded"
    return {"bytes": peak_bytes() - before, "cpu_s": time.process_time() - began, "told": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--alike", type=float, default=0.3, help="share of documents that are like an earlier one")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), args.documents, args.alike)
        print(f"{args.documents} documents, {args.alike:.0%} of them like an earlier one")
        for side in reversed(SIDES):
            command = [sys.executable, __file__, "--side", side, "--folder", folder]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            told = answer["told"] and f", {answer['told']}"
            print(f"{side:<8} {answer['bytes'] / 1e6:8.0f} MB {answer['cpu_s']:8.1f} CPU-s{told}")


if __name__ == "__main__":
    main()
