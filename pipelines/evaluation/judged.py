"""Whose a gate is: storage may hold several recipes, and a verdict names only what it compared.

gates/<name>/<key>    the gate of that key judged a run of the recipe of that name; holds when it did so last
"""

from __future__ import annotations

from datetime import UTC, datetime

from cluster import artifacts, registry
from cluster.artifacts import GateReport, SchemeSearch
from cluster.errors import InputError
from cluster.storage import Storage
from cluster.versions import every
from pipelines.evaluation.verdict import find_report


def note_judged(storage: Storage, name: str, gate: GateReport) -> None:
    """Keep that a run of the recipe came to this gate, now."""
    storage.write(f"gates/{name}/{gate.key}", datetime.now(UTC).isoformat().encode())


def last_gate(storage: Storage, name: str) -> GateReport:
    """What a recipe's last run came to. Where none is noted, by an earlier version, the newest gate that is not another's.

    Raises:
        InputError: there is none.
    """
    notes = _notes(storage, name)
    for key in sorted(notes, key=lambda key: notes[key], reverse=True):
        if (found := _readable(storage, key)) is not None:
            return found
    return find_report(storage, not_of=_noted_by_others(storage, name) | published_by_others(storage, name))


def published_by_others(storage: Storage, name: str) -> frozenset[str]:
    """Digests of gates whose models were published under other names."""
    folders = {key.split("/")[1] for key in storage.list("registry") if key.count("/") > 1}
    revisions = (r for other in folders - {name} for r in registry.revisions(storage, other))
    return frozenset(r.inputs["gate"] for r in revisions if "gate" in r.inputs)


def find_search(storage: Storage, verdict: GateReport) -> SchemeSearch | None:
    """The last search that this gate decided in. Records of other versions of serinus, which cannot be read, are passed over."""
    deciding = (
        search
        for search in reversed(every(storage, SchemeSearch)[0])
        if any(attempt.gate == verdict.digest for attempt in search.attempts)
    )
    return next(deciding, None)


def _noted_by_others(storage: Storage, name: str) -> frozenset[str]:
    """Keys of gates."""
    found = (key.split("/") for key in storage.list("gates"))
    return frozenset(gate for _, other, *rest in found for gate in rest if other != name)


def _notes(storage: Storage, name: str) -> dict[str, str]:
    """Gate's key -> when, in ISO 8601 and UTC, which sorts as it is."""
    keys = list(storage.list(f"gates/{name}"))
    return {key.split("/")[2]: blob.content.decode() for key in keys if (blob := storage.read(key)) is not None}


def _readable(storage: Storage, key: str) -> GateReport | None:
    """None: retired, or written by another version of serinus."""
    try:
        return artifacts.load(storage, GateReport, key)
    except InputError:
        return None
