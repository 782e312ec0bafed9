"""Documents with words that nobody wants to learn from, by a list of one's own.

As C4 did with a public list of bad words (Raffel et al. 2020, JMLR 21/140, section 2.2): a page with any of them is left out,
whatever their case. Words are runs of letters, numbers and the marks on them, and phrases runs of words, so that `ass` is not
found in `assess`; in scripts without spaces a phrase is found only between punctuation marks.
"""

from __future__ import annotations

import unicodedata
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cluster.errors import InputError
from pipelines.config import BlockedWordsConfig, SourceConfig
from pipelines.data.decontaminate import place, words_of
from pipelines.data.filters import Drop
from pipelines.data.inventory import SourceFile, inventory
from pipelines.data.read import open_file

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data.kernels.overlap import Table

COMMENT = "#"
BETWEEN_WORDS = " \t-'’."
"""All that an entry may have besides: what else stood in it would not be looked for."""
MAX_WORDS = 12
"""Of a phrase: each length is looked for by itself."""


class BlockedWords(NamedTuple):
    phrases: tuple[str, ...]
    table: Table


def recorded(config: BlockedWordsConfig) -> dict[str, Any]:
    """The list by name and hash, without this machine's path."""
    file = _file(config)
    return {"file": file.name, "sha256": file.sha256}


def read_blocked(config: BlockedWordsConfig) -> BlockedWords:
    """Raises InputError: the list is missing, is not one file of text, or has no words or too long phrases."""
    from pipelines.data.kernels.overlap import table

    file = _file(config)
    where = f"data.filters.blocked_words: {file.name}"
    phrases = _phrases(file, where)
    words, bounds = words_of(phrases)
    nums = np.diff(bounds)
    if int(nums.max()) > MAX_WORDS:
        longest = phrases[int(nums.argmax())]
        raise InputError(where, f"{int(nums.max())} words in {longest!r}", f"write at most {MAX_WORDS} words a line")
    return BlockedWords(phrases, table(words, bounds, MAX_WORDS, 1))


def _phrases(file: SourceFile, where: str) -> tuple[str, ...]:
    """In NFC, as the texts are."""
    from pipelines.data.kernels.characters import word

    try:
        with open_file(file) as stream:
            content = stream.read()
        lines = unicodedata.normalize("NFC", content.decode("utf-8-sig")).splitlines()
    except UnicodeDecodeError as error:
        raise InputError(where, f"not UTF-8 ({error})", "save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(where, f"cannot be read ({error})", "give a whole file of text") from None
    phrases = list[str]()
    for number, line in enumerate(lines, 1):
        phrase = line.strip()
        if phrase and not phrase.startswith(COMMENT):
            if not word().search(phrase) or word().sub("", phrase).strip(BETWEEN_WORDS):
                remedy = (
                    "write words of letters and numbers; spaces, hyphens, dots and apostrophes may stand between them"
                )
                raise InputError(f"{where}, line {number}", f"{phrase!r} is more than words, or none", remedy)
            phrases.append(phrase)
    if not phrases:
        raise InputError(where, f"no words in {len(lines)} lines", "write a word or a phrase a line")
    return tuple(phrases)


def blocked_drops(texts: pa.Array, blocked: BlockedWords) -> dict[int, Drop]:
    """By index, the texts in which one of the words stands, and where the first one does."""
    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.overlap import hits
    from pipelines.data.kernels.tokens import plain_words

    found = hits(*plain_words(buffers(texts)), blocked.table)
    drops = dict[int, Drop]()
    for i in np.flatnonzero(found.of >= 0).tolist():
        start, end = place(texts[i].as_py(), int(found.first[i]), int(found.num_words[i]))
        drops[i] = Drop("blocked_word", f"{blocked.phrases[found.of[i]]} in characters {start} to {end}")
    return drops


def _file(config: BlockedWordsConfig) -> SourceFile:
    files = inventory([SourceConfig(path=config.path)])
    if len(files) != 1 or files[0].format != "text":
        where, found = f"data.filters.blocked_words: {config.path}", f"{len(files)} files"
        if len(files) == 1:
            found = f"a file of format {files[0].format or 'unknown'}"
        raise InputError(where, found, "name one .txt file, a word or a phrase a line")
    return files[0]
