"""ftfy's repair of one line, quicker: what it looks at again and again is asked of kernels, and most lines need few of its steps.

The steps and their order are those of ftfy.fix_and_explain, with typographic quotes left alone and NFC; the tests hold them to it.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import ftfy
from ftfy import TextFixerConfig, chardata, fixes

from pipelines.data.kernels.mojibake import is_broken

CONFIG = TextFixerConfig(uncurl_quotes=False, normalization="NFC", explain=False)


def fix_line(text: str, *, entities: bool) -> str:
    """The text as ftfy.fix_and_explain returns it. `entities`: resolve HTML's."""
    while True:
        before = text
        if entities and "&" in text:
            text = fixes.unescape_html(text)
        text = _fix_encoding(text)
        if _singles().search(text):
            text = _fix_singles(text)
        text = unicodedata.normalize("NFC", text)
        if text == before:
            return text


def _fix_encoding(text: str) -> str:
    while not text.isascii() and is_broken(text):
        fixed = ftfy._fix_encoding_one_step_and_explain(text, CONFIG).text
        if fixed == text:
            break
        text = fixed
    return text


def _fix_singles(text: str) -> str:
    text = fixes.fix_c1_controls(text)
    text = fixes.fix_character_width(fixes.fix_latin_ligatures(text))
    text = fixes.fix_surrogates(fixes.fix_line_breaks(text))
    return fixes.remove_control_chars(fixes.remove_terminal_escapes(text))


@cache
def _singles() -> re.Pattern[str]:
    """The characters without which `_fix_singles` changes nothing."""
    points = {*chardata.LIGATURES, *chardata.WIDTH_MAP, *chardata.CONTROL_CHARS, *map(ord, "\r\u2028\u2029\x1b")}
    points |= {*range(0x80, 0xA0), *range(0xD800, 0xE000)}
    return re.compile(f"[{re.escape(''.join(map(chr, sorted(points))))}]")
