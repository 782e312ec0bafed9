"""serinus's sides of bench_clean.py: the whole recipe from JSON lines to Parquet, without Ray and on a private cluster.

    python benchmarks/clean_serinus.py FOLDER_OF_JSONL process|ray|ray-data [--cpus N] [--like data-juicer|nemo-curator]

`process` does everything in this process; `ray` is the clean stage as `serinus run` has it; `ray-data` the same, with Ray Data
for small inputs as well. Prints one line of JSON: what the manifest counts and hashes, and the seconds of the stage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from cluster.artifacts import Dataset
    from cluster.storage import LocalStorage
    from pipelines.config import DataConfig


def recipe(folder: Path, like: str = "") -> DataConfig:
    """Repair, rewriting, personal data, language, Gopher's rules and C4's, exact and near duplicates.

    Args:
        like: a system that has less of it: what it leaves out is left out as far as a recipe can say so.
    """
    from pipelines.config import (
        DEFAULT_RULES,
        C4Config,
        DataConfig,
        DedupConfig,
        FilterConfig,
        ProtectConfig,
        RuleConfig,
        SourceConfig,
    )

    c4_lines, alike = (RuleConfig(name="c4_lines"),), like != "nemo-curator"
    addresses: dict[str, Any] = {"email": "mask", "ip_address": "mask"} if alike else {}
    numbers: dict[str, Any] = {} if like else {"phone": "mask", "credit_card": "mask", "iban": "mask"}
    return DataConfig(
        sources=(SourceConfig(path=str(folder)),),
        rules=(*DEFAULT_RULES, *(() if like == "data-juicer" else c4_lines)),
        protect=ProtectConfig(**addresses, **numbers),
        filters=FilterConfig(min_stop_words=0, c4=None if like else C4Config()),  # stop words are English ones
        dedup=DedupConfig(exact=alike, near=alike),
    )


def on_ray(config: DataConfig, storage: LocalStorage, *, small_too: bool) -> tuple[Dataset, float]:
    from cluster.session import joined
    from pipelines.data import clean as stage

    if small_too:
        stage._read_and_judge = lambda judge, work: stage._with_ray_data(judge, work.config)
    with joined():
        began = time.monotonic()
        return stage.clean(config, storage), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("how", choices=("process", "ray", "ray-data"))
    parser.add_argument("--cpus", type=int, help="run on so many cores, Ray and all (Linux)")
    parser.add_argument(
        "--like", choices=("data-juicer", "nemo-curator"), default="", help="without what it leaves out"
    )
    args = parser.parse_args()
    if args.cpus:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cpus])
    from cluster.storage import LocalStorage
    from tests.unit.pipelines.data import world

    with tempfile.TemporaryDirectory() as made:
        config, storage = recipe(args.folder, args.like), LocalStorage(Path(made))
        began = time.monotonic()
        if args.how == "process":
            dataset, stage_s = world.make(storage, config), time.monotonic() - began
        else:
            dataset, stage_s = on_ray(config, storage, small_too=args.how == "ray-data")
    reasons = dataset.num_excluded_by_reason
    told = {"documents": dataset.num_documents, "kept": dataset.num_kept, "digest": dataset.digest, "stage_s": stage_s}
    print(json.dumps({**told, "excluded": reasons}))


if __name__ == "__main__":
    main()
