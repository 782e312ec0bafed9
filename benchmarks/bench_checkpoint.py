"""How long do the steps stand still for a checkpoint, written while they go on and written while they wait?

    python benchmarks/bench_checkpoint.py [--repeats 2] [--saves 5] [--every 4] [--hidden 1024] [--out FILE.jsonl]

The train stage under Ray Train, as `serinus run` has it, on two CPU ranks of one thread: a random Llama (100 M parameters by
default: 1.2 GB a checkpoint), ZeRO stage 3, float32, a checkpoint every few steps. Sides differ in `checkpoint_asynchronously`
alone, and take turns; `none` writes no checkpoint. That all sides come to the same losses, bit for bit, is checked. Of each rank:

- stood: from a step's end until the loop goes on, a checkpoint being asked for (`Saver.save`); so waiting for the one before is
  in it. The first of a run is told apart: its copy touches new memory.
- copy, write: of that, or of the thread beside it, the copy of the states and the files with their hash.
- loop: from the end of the first step until all is trained and every checkpoint written, beside `none`: what steps that are
  slower for the writing beside them cost is in it. Where ranks take all cores, as here, writing has to take its time from them.

Times are of a rank that waits for nobody; where ranks differ, of the slower one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

SIDES = ("none", "waiting", "beside")
BESIDE = {"waiting": False, "beside": True}


def save_model(folder: Path, hidden: int) -> None:
    """bench_train.py's random Llama, as wide as is asked for."""
    import bench_train

    bench_train.SHAPE |= {
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_attention_heads": hidden // 64,
    }
    bench_train.save_model(folder)


def training(given: argparse.Namespace, side: str) -> Any:
    """As a recipe's `train`."""
    from pipelines.config import TrainConfig

    steps = (given.saves + 1) * given.every
    return TrainConfig.model_validate(
        {
            "num_workers": 2, "gpus_per_worker": 0, "zero": {"stage": 3}, "precision": "float32", "sequence_length": 128,
            "sequences_per_worker": 1, "learning_rate": 3e-4, "num_steps": steps, "warmup_steps": 2, "max_failures": 0,
            "checkpoint_every_steps": steps if side == "none" else given.every,
            "checkpoint_asynchronously": BESIDE.get(side, True),
        }
    )  # fmt: skip


def measure(side: str, world: Any, given: argparse.Namespace) -> dict[str, Any]:
    """One run of that side."""
    from benchmarks.checkpoint_times import TIMES
    from cluster.artifacts import Dataset, load
    from pipelines.training.train import train

    dataset = load(world.storage, Dataset, world.dataset)
    assert dataset is not None, "bench_train.py makes it"
    made = train(training(given, side), dataset, world.base, world.storage)
    ranks = [json.loads((world.storage.root / TIMES / f"{rank}.json").read_text()) for rank in range(2)]
    (world.storage.root / made.location / "manifest.json").unlink()  # else the next side finds it made
    return {"side": side, "losses": [point.loss for point in made.losses]} | figures(ranks)


def figures(ranks: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Seconds of the slower rank, checkpoint by checkpoint; of the whole loop."""
    each = {
        name: [max(both) for both in zip(*(rank[name] for rank in ranks), strict=True)]
        for name in ("stood_s", "copy_s", "write_s")
    }
    return each | {"loop_s": max(rank["joined"][0] - rank["ends"][0] for rank in ranks)}


def told(found: list[dict[str, Any]]) -> list[str]:
    """A line a side, over its repeats."""
    lines = []
    for side in (side for side in SIDES if any(one["side"] == side for one in found)):
        runs = [one for one in found if one["side"] == side]
        loop = ", ".join(f"{one['loop_s']:.1f}" for one in runs)
        if side == "none":
            lines.append(f"{side:8} loop {loop} s")
            continue
        first = [one["stood_s"][0] for one in runs]
        later = [took for one in runs for took in one["stood_s"][1:]]
        parts = {name: [took for one in runs for took in one[f"{name}_s"]] for name in ("copy", "write")}
        more = "  ".join(f"{name} {statistics.median(took):.2f} s" for name, took in parts.items() if took)
        lines.append(
            f"{side:8} stood {statistics.median(later):.3f} s [{min(later):.3f}, {max(later):.3f}] a checkpoint, the first "
            f"{statistics.median(first):.3f} s  {more}  loop {loop} s"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--saves", type=int, default=5, help="checkpoints a run")
    parser.add_argument("--every", type=int, default=4, help="steps")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the model")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from cluster.session import joined

    # Ray is imported in there, which its token has to come before.
    with joined(), tempfile.TemporaryDirectory() as temporary:
        import bench_train

        model = Path(temporary) / "model"
        save_model(model, given.hidden)
        world = bench_train.prepare(Path(temporary), model)
        print(f"{world.base.num_parameters / 1e6:.1f} M parameters: {12 * world.base.num_parameters / 1e9:.2f} GB")
        found = _turns(world, given)
    assert all(one["losses"] == found[0]["losses"] for one in found), "sides differ in their losses"
    if given.out:
        given.out.write_text("".join(json.dumps(one) + "\n" for one in found))
    print("\n".join(told(found)))


def _turns(world: Any, given: argparse.Namespace) -> list[dict[str, Any]]:
    from benchmarks.checkpoint_times import timed_worker
    from pipelines.training import fit

    cast("Any", fit).worker = timed_worker  # by its module's name: workers import it
    found = []
    for repeat in range(given.repeats):
        for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
            found.append(measure(side, world, given))
            print(json.dumps({k: v for k, v in found[-1].items() if k != "losses"}), flush=True)
    return found


if __name__ == "__main__":
    main()
