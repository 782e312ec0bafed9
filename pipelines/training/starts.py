"""At which steps workers started on a run: in its folder, so that it outlives them."""

from __future__ import annotations

import json

from cluster.storage import Storage


def note_start(storage: Storage, run: str, step: int) -> int:
    """Append `step` to the list of steps at which workers started on this run; how many there are now."""
    noted = [*starts(storage, run), step]
    storage.write(f"{run}/starts.json", json.dumps(noted).encode())
    return len(noted)


def starts(storage: Storage, run: str) -> list[int]:
    """Steps at which workers started; all but the first are resumptions."""
    blob = storage.read(f"{run}/starts.json")
    return [] if blob is None else [int(step) for step in json.loads(blob.content)]
