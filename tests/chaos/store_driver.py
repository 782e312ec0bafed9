"""Cleaning in a cluster whose object store is as small as Ray lets it be: `python -m tests.chaos.store_driver FOLDER NUM [SPILL]`.

NUM documents are written to FOLDER first, if none are there; SPILL is where the store's objects go when it is full.
"""

from __future__ import annotations

import json
import random
import resource
import string
import sys
from pathlib import Path
from typing import Any

from cluster.errors import SerinusError
from cluster.session import PRIVATE_HOST, prepare_environment
from cluster.storage import LocalStorage

STORE_BYTES = 78 << 20
NUM_FILES = 16


def write_documents(folder: Path, num: int) -> None:
    """Sixty words each, none like another."""
    drawn = random.Random(0)
    words = ["".join(drawn.choices(string.ascii_lowercase, k=drawn.randint(2, 9))) for _ in range(20_000)]
    folder.mkdir(parents=True)
    for number in range(NUM_FILES):
        with (folder / f"{number}.jsonl").open("w", encoding="ascii") as file:
            for _ in range(num // NUM_FILES):
                file.write(json.dumps({"text": " ".join(drawn.choices(words, k=60))}) + "\n")


def cleaned(documents: Path, storage: LocalStorage) -> dict[str, Any]:
    """What became of them; of an error what a user is told."""
    from pipelines.config import DataConfig, SourceConfig
    from pipelines.data.clean import clean

    config = DataConfig(sources=(SourceConfig(path=str(documents)),), filters={"min_words": 5, "languages": []})
    try:
        made = clean(config, storage)
    except SerinusError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    return {"num_kept": made.num_kept}


def store_figures() -> dict[str, int]:
    """Of the cluster's object store, in bytes, since it began."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    told = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
    return {"created": told.cumulative_created_bytes, "spilled": told.spilled_bytes_total}


def main(folder: str, num: str, spill: str = "") -> None:
    root = Path(folder)
    if not (root / "documents").exists():
        write_documents(root / "documents", int(num))
    prepare_environment()
    import ray

    ray.init("local", num_cpus=2, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False,
             _node_ip_address=PRIVATE_HOST, **({"object_spilling_directory": spill} if spill else {}))  # fmt: skip
    told: dict[str, Any] = {**cleaned(root / "documents", LocalStorage(root / "storage")), **store_figures()}
    told["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    sys.stdout.write(f"\n{json.dumps(told)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
