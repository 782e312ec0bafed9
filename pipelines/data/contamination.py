"""How much of evaluation items stands in training documents, by runs of words as cleaning finds them (decontaminate.py).

Prompt and right answer are looked for apart. An answer of fewer than MIN_WORDS words stands everywhere by itself: it is looked for
behind the last words of its prompt, by the runs that reach into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.storage import open_storage

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.kernels.overlap import Int64s, Table, Uint64s

NGRAMS = (8, 13)
"""Words of a run: PaLM's and GPT-3's (see cluster/artifacts/contamination.py)."""
MIN_WORDS = 8
"""GPT-3's least: shorter runs stand where nothing was copied. By runs of 13, texts of so many words are looked for whole."""
MOST = 0.7
"""PaLM's share of the runs of 8 words."""


class Asked(NamedTuple):
    """An evaluation item."""

    task: str
    id: str
    prompt: str
    answer: str = ""
    """The right one; empty where there is none, or where it is the prompt."""


class Words(NamedTuple):
    """Hashes of the words of several texts; those of text i are [bounds[i], bounds[i + 1])."""

    hashes: Uint64s
    bounds: Int64s

    @property
    def nums(self) -> Int64s:
        return np.diff(self.bounds)

    def of(self, text: int) -> Uint64s:
        return self.hashes[self.bounds[text] : self.bounds[text + 1]]


class Sought(NamedTuple):
    """What items are looked for by, for one length of runs."""

    table: Table
    slots: Int64s
    """Of each run in the table; those of text i are [bounds[i], bounds[i + 1]). Texts 2i and 2i + 1 are of item i:
    its prompt and its answer."""
    bounds: Int64s


class Seen(NamedTuple):
    """Runs that stand in some documents, by their slots, and the id of the first document of each."""

    slots: Int64s
    ids: pa.Array


class Found(NamedTuple):
    """Runs that stand anywhere."""

    names: list[str]
    """Ids of documents."""
    where: NDArray[np.int64]
    """Of each slot the index in `names`; -1: nowhere."""


class Share(NamedTuple):
    """Of one item's runs of one length. None: too short to have one."""

    prompt: float | None
    answer: float | None


class Overlap(NamedTuple):
    """Of one item."""

    num_prompt_words: int
    num_answer_words: int
    shares: tuple[Share, ...]
    """By NGRAMS."""
    document: str
    """One that has most of what was found of it; empty: nothing was."""

    @property
    def deciding(self) -> tuple[tuple[float, ...], ...]:
        """By NGRAMS, the shares that say whether the item is contaminated. That of a short answer does where its prompt is short
        as well: else it is of one run, as a task's form of words has one ("the answer is")."""
        is_told = self.num_answer_words >= MIN_WORDS or self.num_prompt_words < MIN_WORDS
        return tuple(
            tuple(part for part in (one.prompt, one.answer if is_told else None) if part is not None)
            for one in self.shares
        )

    @property
    def has_most(self) -> bool | None:
        """By `most_8_grams`; None: it is too short to tell."""
        shares = self.deciding[0]
        return max(shares) >= MOST if shares else None

    @property
    def has_any(self) -> bool | None:
        """By `any_13_gram`."""
        shares = self.deciding[1]
        return max(shares) > 0 if shares else None


def sought(items: Sequence[Asked]) -> tuple[tuple[Sought, ...], Words, Words]:
    """What to look for, by NGRAMS; the words of prompts and of answers."""
    prompts, answers = _words([item.prompt for item in items]), _words([item.answer for item in items])
    return tuple(_sought(prompts, answers, ngram) for ngram in NGRAMS), prompts, answers


def of_shard(uri: str, key: str, tables: Sequence[Table]) -> list[Seen]:
    """What of each table stands in a shard of a dataset. Runs on the workers."""
    from pipelines.data.record import read_table

    shard = read_table(open_storage(uri), key, ["id", "text"])
    return of_texts(shard["text"], shard["id"], tables)


def of_texts(texts: Any, ids: Any, tables: Sequence[Table]) -> list[Seen]:
    """The same of columns of texts and their ids."""
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.overlap import seen
    from pipelines.data.kernels.tokens import plain_words

    words = plain_words(buffers(_whole(texts.cast(pa.large_string()))))
    found = (seen(*words, table) for table in tables)
    return [Seen(slots, _whole(ids.take(pa.array(first)))) for slots, first in found]


def together(tables: Sequence[Table], parts: Iterable[Sequence[Seen]]) -> tuple[Found, ...]:
    """Of each table, of documents in their order."""
    found = tuple(Found([], np.full(len(table.keys), -1, np.int64)) for table in tables)
    for part in parts:
        for (names, where), (slots, ids) in zip(found, part, strict=True):
            new = np.flatnonzero(where[slots] < 0)
            where[slots[new]] = len(names) + np.arange(len(new))
            names.extend(ids.take(new).to_pylist())
    return found


def overlaps(wanted: Sequence[Sought], found: Sequence[Found], prompts: Words, answers: Words) -> Iterator[Overlap]:
    """Of each item, in their order."""
    for item in range(len(prompts.nums)):
        shares, documents = list[Share](), Counter[str]()
        for one, (names, where) in zip(wanted, found, strict=True):
            parts = [where[one.slots[one.bounds[text] : one.bounds[text + 1]]] for text in (2 * item, 2 * item + 1)]
            shares.append(Share(*(float((part >= 0).mean()) if len(part) else None for part in parts)))
            documents.update(names[at] for part in parts for at in part[part >= 0].tolist())
        document = documents.most_common(1)[0][0] if documents else ""
        yield Overlap(int(prompts.nums[item]), int(answers.nums[item]), tuple(shares), document)


def _words(texts: Sequence[str]) -> Words:
    """Spelt as the documents are: items and instructions are not cleaned."""
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.tokens import plain_words

    return Words(*plain_words(buffers(repaired(pa.array(texts, pa.large_string())))))


def repaired(texts: pa.Array) -> pa.Array:
    """Unicode as cleaning leaves it: composed, without invisible characters."""
    from pipelines.data.repair import repair_column

    return _whole(repair_column(texts))


def _sought(prompts: Words, answers: Words, ngram: int) -> Sought:
    from pipelines.data.kernels.overlap import places, table

    texts = [text for item in range(len(prompts.nums)) for text in _parts(prompts.of(item), answers.of(item), ngram)]
    bounds = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    words = np.concatenate([*texts, np.empty(0, np.uint64)])
    runs = table(words, bounds, ngram, MIN_WORDS)
    return Sought(runs, *places(words, bounds, ngram, MIN_WORDS, runs))


def _parts(prompt: Uint64s, answer: Uint64s, ngram: int) -> tuple[Uint64s, Uint64s]:
    """Prompt and answer, a short one behind as many of the prompt's last words as each of its runs has of them."""
    is_short = 0 < len(answer) < MIN_WORDS
    return prompt, np.concatenate([prompt[-(ngram - 1) :], answer]) if is_short else answer


def _whole(column: Any) -> Any:
    """Of a chunked column one array."""
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column
