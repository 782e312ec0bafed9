"""Who is like whom, found on the workers: by fingerprints, and band by band of the signatures, against earlier versions too.

Each task sorts its bands over all documents, the keys of which lie in Ray's object store; the driver gets pairs. Its memory
depends on how many documents are alike, not on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cluster.artifacts import Dataset, Record
from cluster.errors import ConfigError, InputError
from cluster.storage import Storage, open_storage
from pipelines.config import DedupConfig
from pipelines.data.decide import EXCLUDED
from pipelines.data.dedup import NO_PAIRS, SIGNED_ALIKE, Keys, Links, keys_of, links
from pipelines.data.history import version
from pipelines.data.record import is_recorded, read_table
from pipelines.data.rules import VERSION
from pipelines.data.trace import IN_VERSION

if TYPE_CHECKING:
    import pyarrow as pa

MANY = 200_000
"""Documents for which one task compares all bands in a second. Of more, several tasks compare some bands each."""


class Shard(NamedTuple):
    """The record of one shard of an earlier version, whose first document has the number `start`, below zero."""

    key: str
    start: int


class Task(NamedTuple):
    """What one worker compares."""

    starts: tuple[int, ...]
    """Of each table that is compared the number of its first document."""
    bands: tuple[int, ...]
    exact: bool
    num_bands: int
    storage: str
    earlier: tuple[Shard, ...]


def tasks(config: DedupConfig, lengths: Sequence[int], storage: str, earlier: Sequence[Shard]) -> list[Task]:
    """One for all bands, or several that share them where there are many documents in tables of these lengths and in earlier
    versions."""
    *starts, num = accumulate(lengths, initial=0)
    num -= earlier[0].start if earlier else 0
    bands = tuple(range(config.num_bands if config.near else 0))
    num_groups = min(1 + num // MANY, max(len(bands), 1))
    groups = [bands[i::num_groups] for i in range(num_groups)]
    return [
        Task(tuple(starts), group, config.exact and i == 0, config.num_bands, storage, tuple(earlier))
        for i, group in enumerate(groups)
        if group or config.exact
    ]


def link(task: Task, *tables: pa.Table) -> Links:
    """The pairs of one task. `tables` have all documents in their order, with `reason`, `fingerprint` and `bands`."""
    return links([*_earlier_keys(task), *_own_keys(task, tables)], exact=task.exact)


def _own_keys(task: Task, tables: Iterable[pa.Table]) -> Iterator[Keys]:
    import pyarrow.compute as pc

    for start, table in zip(task.starts, tables, strict=True):
        alive = pc.indices_nonzero(pc.equal(table["reason"], ""))
        keys = table.select(["fingerprint", "bands"]).take(alive)
        yield keys_of(keys, np.asarray(alive).astype(np.int64) + start, task.num_bands, task.bands, exact=task.exact)


def _earlier_keys(task: Task) -> Iterator[Keys]:
    storage = open_storage(task.storage)
    for shard in task.earlier:
        table = read_table(storage, shard.key, ("fingerprint", "bands"))
        yield keys_of(
            table, np.arange(shard.start, shard.start + len(table)), task.num_bands, task.bands, exact=task.exact
        )


def joined(found: Sequence[Links]) -> Links:
    """All pairs, of all tasks."""
    exact = np.concatenate([NO_PAIRS, *(links.exact for links in found)], axis=1)
    return Links(exact, np.concatenate([NO_PAIRS, *(links.near for links in found)], axis=1))


# --- earlier versions -------------------------------------------------------------------------------------------------


def earlier_versions(storage: Storage, config: DedupConfig) -> list[Dataset]:
    """Those that the recipe names.

    Raises:
        InputError: there is none such, or several, or it has no record.
        ConfigError: its signatures are of another kind.
    """
    found = [version(storage, wanted) for wanted in config.against]
    for made in found:
        where = f"data.dedup.against: {made.key}"
        if not is_recorded(storage, made):
            raise InputError(
                where, "has no record: an earlier serinus made it", "make it again: serinus run RECIPE --from clean"
            )
        theirs, ours = made.config.get("dedup", {}), config.model_dump()
        for name in ("ngram", "num_bands", "rows_per_band"):
            if config.near and theirs.get(name) != ours[name]:
                what = f"was made with {name} {theirs.get(name)}, here it is {ours[name]}"
                raise ConfigError(where, what, f"set data.dedup.{name}: {theirs.get(name)}, or near: false")
        if config.near and made.config.get("rules_version", VERSION) < SIGNED_ALIKE:
            what = "was made by an earlier serinus, whose signatures are not like these"
            raise ConfigError(where, what, "make it again: serinus run RECIPE --from clean; or set near: false")
        if config.near and not theirs.get("near"):
            raise ConfigError(where, "was made without signatures (near: false)", "leave it out, or set near: false")
    return found


def shards_of(versions: Sequence[Dataset]) -> list[Shard]:
    """Of what these versions keep, numbered up to -1."""
    kept = [(made, batch) for made in versions for batch in made.batches if not batch.path.startswith(f"{EXCLUDED}/")]
    start, found = -sum(batch.num_documents for _, batch in kept), list[Shard]()
    for made, batch in kept:
        found.append(Shard(f"{Record(key=made.key).location}/{batch.path}", start))
        start += batch.num_documents
    return found


def names_of(storage: Storage, versions: Sequence[Dataset], links: Links) -> dict[int, str]:
    """`ID in version KEY` for each number below zero in the links."""
    found: dict[int, str] = {}
    numbers = np.unique(np.concatenate(links, axis=1))
    wanted, shards = numbers[numbers < 0].tolist(), shards_of(versions)
    keys = {Record(key=made.key).location: made for made in versions}
    for shard, following in pairwise((*shards, Shard("", 0))):
        chosen = [number for number in wanted if shard.start <= number < following.start]
        if chosen:
            ids = read_table(storage, shard.key, ("id",))["id"]
            made = keys["/".join(shard.key.split("/")[:3])]
            found |= {number: f"{ids[number - shard.start]}{IN_VERSION}{made.key}" for number in chosen}
    return found
