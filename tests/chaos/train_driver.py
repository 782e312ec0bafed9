"""A driver for the tests to kill: `python -m tests.chaos.train_driver ADDRESS STORAGE MODEL FIELDS` trains, or goes on. FIELDS of
the run that differ from `chaos_run`'s, in JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cluster.session import joined
from cluster.storage import LocalStorage
from pipelines.training.train import train
from tests.integration.training_case import base_model, chaos_run, small_dataset


def main(address: str, folder: str, model: str, fields: str) -> int:
    storage, config = LocalStorage(folder), chaos_run(**json.loads(fields))
    with joined(address):
        try:
            made = train(config, small_dataset(storage), base_model(storage, Path(model)), storage)
        except KeyboardInterrupt:
            return 130
    sys.stdout.write(made.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
