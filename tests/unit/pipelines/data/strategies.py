"""Texts that try what a kernel may get wrong: every kind of white space and line break, case, width and length in bytes."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import strategies as st

SPECIAL = (
    " \n\t\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u205f\u3000\u200b\ufeff\u00ad"
    "#.…!?\"'”’。•‣◦⁃∙●▪-*_&<;{[]()@:/\\0123456789٣²Ⅷ½"
    "aAbBtThHeEoOfFİıſKÅßΣσςéÉöñДдЖжمนคक्ा中文字あア가각가\u0301\u0308\u1160ﬁﬂＡａｱ😀👍🏽𝔘𐐀𐐨𞤀\U000e0041\U0010ffff"
)
FRAGMENTS = (
    "the ",
    "of ",
    "To",
    "be",
    "wİth",
    "word word ",
    "...",
    "…",
    "\n\n",
    "\r\n",
    "- ",
    "* ",
    "• x",
    "\n- \n",
    " . ",
)

texts = st.lists(
    st.one_of(
        st.sampled_from(SPECIAL),
        st.sampled_from(FRAGMENTS),
        st.text(max_size=4),
        st.text(alphabet="ab \n", max_size=30),
    ),
    max_size=40,
).map("".join)

columns = st.lists(texts, max_size=6)


def column(texts: list[str]) -> pa.Array:
    """As a batch may hold them: behind others in the same buffers."""
    return pa.array(["ahead of it ", *texts, "behind"], pa.large_string()).slice(1, len(texts))
