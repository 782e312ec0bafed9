"""A driver for the tests to kill: `python -m tests.chaos.train_driver ADDRESS STORAGE MODEL RANKS` trains, or goes on."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.session import joined
from cluster.storage import LocalStorage
from pipelines.training.train import train
from tests.integration.training_case import base_model, chaos_run, small_dataset


def main(address: str, folder: str, model: str, ranks: str) -> int:
    storage = LocalStorage(folder)
    with joined(address):
        try:
            made = train(chaos_run(int(ranks)), small_dataset(storage), base_model(storage, Path(model)), storage)
        except KeyboardInterrupt:
            return 130
    sys.stdout.write(made.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
