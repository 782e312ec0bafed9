"""Documents that share words with an item of an evaluation set: a model that has learnt the answers proves nothing.

After Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C): runs of 13 words in lower case and without punctuation, and
shorter items whole down to 8 words. Other than there one common run excludes the whole document (they cut it out with 200
characters on either side), and a run that many documents have counts like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cluster.errors import InputError
from pipelines.config import DecontaminateConfig, EvaluationSetConfig, SourceConfig
from pipelines.data.inventory import SourceFile, inventory
from pipelines.data.read import open_file

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.kernels.overlap import Table


class Item(NamedTuple):
    id: str
    """<file>#<the item's id, or its line>."""
    text: str


class EvaluationSets(NamedTuple):
    """What to look for."""

    ids: tuple[str, ...]
    """Of the item of each text in the table."""
    table: Table
    num_items: int
    num_too_short: int
    """Items without a text of `min_words` words: they are not looked for."""


def recorded(config: DecontaminateConfig) -> dict[str, Any]:
    """The sets by name and hash, without this machine's paths."""
    sets = [
        {**one.model_dump(exclude={"path"}), "file": file.name, "sha256": file.sha256}
        for one in config.sets
        for file in inventory([SourceConfig(path=one.path)])
    ]
    return {**config.model_dump(exclude={"sets"}), "sets": sets}


def read_sets(config: DecontaminateConfig) -> EvaluationSets:
    """Raises InputError: a set is missing, is no JSON lines, or has no text that is long enough."""
    from pipelines.data.kernels.overlap import table

    items = [item for one in config.sets for item in _items(one)]
    words, bounds = words_of([item.text for item in items])
    long = {
        item.id for item, num in zip(items, np.diff(bounds), strict=True) if num >= min(config.min_words, config.ngram)
    }
    everything = {item.id for item in items}
    if not long:
        where = ", ".join(one.path for one in config.sets)
        found = f"no text of {config.min_words} words or more in {len(everything)} items"
        raise InputError(f"data.decontaminate: {where}", found, "name other `fields`, or lower `min_words`")
    runs = table(words, bounds, config.ngram, config.min_words)
    return EvaluationSets(tuple(item.id for item in items), runs, len(everything), len(everything - long))


def contaminated(texts: pa.Array, sets: EvaluationSets) -> dict[int, str]:
    """Index of each text that shares a run of words with an item -> the item, and where the run stands in the text."""
    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.overlap import hits
    from pipelines.data.kernels.tokens import plain_words

    found = hits(*plain_words(buffers(texts)), sets.table)
    return {
        i: _told(sets.ids[found.of[i]], texts[i].as_py(), int(found.first[i]), int(found.num_words[i]))
        for i in np.flatnonzero(found.of >= 0).tolist()
    }


def place(text: str, first: int, num_words: int) -> tuple[int, int]:
    """The characters where a run of words begins and ends."""
    from pipelines.data.kernels.characters import word

    spans = [match.span() for match in islice(word().finditer(text), first, first + num_words)]
    return spans[0][0], spans[-1][1]


def _told(item: str, text: str, first: int, num_words: int) -> str:
    start, end = place(text, first, num_words)
    return f'{item}: {num_words} words in characters {start} to {end}: "{" ".join(text[start:end].split())}"'


def words_of(texts: Sequence[str]) -> tuple[Any, Any]:
    """Hashes of the words, in lower case and without punctuation, and the bounds of each text's."""
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.tokens import plain_words

    return plain_words(buffers(pa.array(texts, pa.large_string())))


def _items(config: EvaluationSetConfig) -> Iterator[Item]:
    for file in inventory([SourceConfig(path=config.path)]):
        if file.format != "jsonl":
            raise InputError(f"data.decontaminate: {file.name}", "not JSON lines", "give a .jsonl file, an item a line")
        yield from _of_file(file, config)


def _of_file(file: SourceFile, config: EvaluationSetConfig) -> Iterator[Item]:
    with open_file(file) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"data.decontaminate: {file.name}, line {number}"
            try:
                value = json.loads(line)
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is JSON and no text
            except (ValueError, RecursionError) as error:
                raise InputError(where, f"not JSON ({error})", "mend the line") from None
            if not isinstance(value, dict):
                raise InputError(where, f"{type(value).__name__}, not an object", "give an object a line") from None
            name = f"{file.name}#{value.get(config.id_field, number)}"
            fields = config.fields or [field for field in value if field != config.id_field]
            if missing := [field for field in config.fields if field not in value]:
                raise InputError(where, f"no field {missing[0]}", f"fields there: {', '.join(value)}")
            yield from (Item(name, text) for field in fields for text in texts_of(value[field]))


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a value, however deep: a list of choices, answers in an object."""
    match value:
        case str():
            yield value
        case list():
            for inner in value:
                yield from texts_of(inner)
        case dict():
            for inner in value.values():
                yield from texts_of(inner)
