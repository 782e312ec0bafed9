"""Ray Train's list of a run's checkpoints, made anew from the checkpoints themselves where it does not fit them.

Its controller writes the list in place (ray 2.60, checkpoint_manager.py, `_write_state_to_storage`): who is killed in that moment,
or finds the disk full, leaves half of it. And it refuses a run whose list names a checkpoint that somebody has removed. Neither is
a reason to lose the others, each of which says by itself what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.progress import say
from pipelines.training.checkpoint import RECORD, Record, told

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's name of the list, in the run's folder."""


def mend_list(storage: Storage, run: str) -> None:
    """Before a run is taken up: let the list name the whole checkpoints in the run's folder, where it is damaged or names others.

    Raises:
        InputError: there is a list, and no checkpoint to go on from.
    """
    if (blob := storage.read(f"{run}/{SNAPSHOT}")) is None:
        return
    files = {key.removeprefix(f"{run}/") for key in storage.list(run)}
    named = _named(blob.content)
    if named is not None and named <= {file.partition("/")[0] for file in files}:
        return
    found = "cannot be read" if named is None else "names checkpoints that are gone"
    # What was written behind a point gone back to is of a run that is no more: it has had fewer incidents.
    whole = sorted(_whole(storage, run, files), key=lambda one: (len(one[1].incidents), one[1].step))
    if not whole:
        remedy = "restore a checkpoint there, or remove the run's whole folder: it then begins anew"
        raise InputError(f"{storage.uri}/{run}", f"Ray Train's list {found}, and no whole checkpoint is there", remedy)
    storage.write(f"{run}/{SNAPSHOT}", _list(whole).encode())
    say("train", f"warning: Ray Train's list {found}; going on from the newest whole one, of step {whole[-1][1].step}")


def _named(content: bytes) -> set[str] | None:
    """Folders of the checkpoints that the list names; None where it is none."""
    try:
        return {one["checkpoint_dir_name"] for one in json.loads(content)["checkpoint_results"]}
    except (ValueError, KeyError, TypeError):
        return None


def _whole(storage: Storage, run: str, files: set[str]) -> Iterator[tuple[str, Record]]:
    """Folder and record of each checkpoint whose files are all there; whether they are as they were is asked when one is read."""
    for folder in sorted(file.removesuffix(f"/{RECORD}") for file in files if file.endswith(f"/{RECORD}")):
        blob = storage.read(f"{run}/{folder}/{RECORD}")
        try:
            record = Record.model_validate_json(blob.content if blob else b"")
        except ValueError:
            continue
        if {f"{folder}/{n}.{kind}" for n in range(record.num_files) for kind in ("bin", "json")} <= files:
            yield folder, record


def _list(whole: list[tuple[str, Record]]) -> str:
    """As Ray Train writes it."""
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        _CheckpointManagerState,
        _TrainingResultState,
    )

    results = [_TrainingResultState(checkpoint_dir_name=folder, metrics=told(record)) for folder, record in whole]
    empty: dict[str, Any] = {
        "pending_training_results": [],
        "pending_validation_specs": [],
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    return str(
        _CheckpointManagerState(
            checkpoint_results=results,
            checkpoint_report_indices=list(range(len(results))),
            latest_checkpoint_result=results[-1],
            current_report_index=len(results),
            **empty,
        ).json()
    )
