"""Unicode repaired: broken encodings, entities, invisible characters, composition.

What a text becomes is said by `repair_unicode`, which asks ftfy and is slow; `repair_column` answers the same for many texts.
Kernels find the texts that it could change, and in those the lines: ftfy goes through a text line by line.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

# Zero-width space, word joiner, byte-order mark, soft hyphen, directional marks: no reader sees them, a tokenizer does.
# Zero-width joiner and non-joiner stay: Persian, Indic scripts and emoji are spelt with them.
INVISIBLE = "\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
LINE_BREAKS = "\u0085\u2028\u2029\v\f"
REMOVED = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), *map(ord, INVISIBLE)))
TRANSLATION = {**REMOVED, **{ord(c): "\n" for c in LINE_BREAKS}, ord("\n"): "\n", ord("\t"): "\t"}


ROUNDS = 3
"""What was hidden between removed characters may be seen in the next round; two are the rule."""

NOT_SETTLED = re.compile(f"[{re.escape(''.join(map(chr, TRANSLATION.keys() - {0x09, 0x0A})))}]")
"""What TRANSLATION changes."""

MAX_LINE_CHARACTERS = 1_000_000
"""ftfy cuts longer lines."""


def repair_unicode(text: str) -> str:
    """Mojibake undone (ftfy), invisible and control characters removed, line breaks made newlines, NFC.

    Typographic quotes stay as they are. Removal comes before NFC: what stood apart may compose now.
    """
    from ftfy import fix_text

    for _ in range(ROUNDS):
        repaired = fix_text(text, uncurl_quotes=False, normalization="NFC")
        text = unicodedata.normalize("NFC", repaired.translate(TRANSLATION))
        if text == repaired:
            break
    return text


def _settled(text: str) -> str:
    if NOT_SETTLED.search(text):
        text = text.translate(TRANSLATION)
    return unicodedata.normalize("NFC", text)


def repair_column(texts: pa.Array) -> pa.Array:
    """As `repair_unicode` of each text, which is asked only where the kernels cannot tell the answer."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.data.kernels import repair
    from pipelines.data.kernels.characters import array, buffers

    flags = repair.flags(buffers(texts), TRANSLATION)
    slow = _beyond_kernels(texts, flags)
    mapped = (flags & repair.MAPPED > 0) & ~slow
    if mapped.any():
        easy = array(repair.mapped(buffers(texts.filter(mapped)), TRANSLATION))
        again = repair.flags(buffers(easy), TRANSLATION)
        slow[np.flatnonzero(mapped)] = (again & repair.MAPPED > 0) | _beyond_kernels(easy, again)
        texts = pc.replace_with_mask(texts, mapped & ~slow, easy.filter(~slow[mapped]))
    if not slow.any():
        return texts
    repaired = _repair_lines(texts.filter(slow).to_pylist())
    return pc.replace_with_mask(texts, slow, pa.array(repaired, pa.large_string()))


def _beyond_kernels(texts: pa.Array, flags: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Where more has to be done than to put single characters in the place of others."""
    from pipelines.data.kernels import mojibake, repair
    from pipelines.data.kernels.characters import buffers

    beyond = flags & (repair.COMPLEX | repair.ENTITY) > 0
    suspect = ~beyond & (flags & repair.SUSPECT > 0)
    if suspect.any():
        beyond[suspect] = mojibake.broken(buffers(texts.filter(suspect)))
    for i in np.flatnonzero(~beyond & (flags & repair.UNSETTLED > 0)).tolist():
        beyond[i] = not unicodedata.is_normalized("NFC", texts[i].as_py())
    return beyond


def _repair_lines(texts: list[str]) -> list[str]:
    """As `repair_unicode` of each; lines that it would leave as they are are not looked at."""
    import pyarrow as pa

    from pipelines.data.kernels import repair
    from pipelines.data.kernels.characters import buffers

    lines_of = [_lines(text) for text in texts]
    column = pa.array([line for lines in lines_of for line in lines], pa.large_string())
    flags = repair.flags(buffers(column), TRANSLATION)
    touched = ((flags & repair.MAPPED > 0) | _beyond_kernels(column, flags)).tolist()
    repaired, begin = list[str](), 0
    for text, lines in zip(texts, lines_of, strict=True):
        end = begin + len(lines)
        too_long = max(map(len, lines)) > MAX_LINE_CHARACTERS
        repaired.append(repair_unicode(text) if too_long else _repair_some(lines, touched[begin:end]))
        begin = end
    return repaired


def _lines(text: str) -> list[str]:
    """Each with its newline, the last perhaps without."""
    lines = text.split("\n")
    last = lines.pop()
    return [*(f"{line}\n" for line in lines), *([last] if last else [])]


def _repair_some(lines: list[str], touched: list[bool]) -> str:
    """The text, its touched lines repaired. From the first `<` on entities stay, for that is what HTML has."""
    from pipelines.data.mend import fix_line

    for _ in range(ROUNDS):
        plain = True
        for i, line in enumerate(lines):
            if not touched[i]:
                plain = plain and "<" not in line
                continue
            parts = []
            for part in _lines(line):  # of several, where a round before made newlines of other breaks
                plain = plain and "<" not in part
                parts.append(fix_line(part, entities=plain))
            fixed = "".join(parts)
            lines[i] = _settled(fixed)
            touched[i] = lines[i] != fixed
        if not any(touched):
            break
    return "".join(lines)
