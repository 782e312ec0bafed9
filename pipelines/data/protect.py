"""Personal data and secrets in texts: found, and masked, hashed, or a reason to leave the document out.

What is on record is where something was and of what kind, never what it was. Patterns say how a value looks; where a kind
has a check of its own (check digits, registries of addresses) that decides.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cluster.errors import ConfigError
from pipelines.config import ProtectAction, ProtectConfig, ProtectedKind
from pipelines.data import national_ids

if TYPE_CHECKING:
    import pyarrow as pa


class Span(NamedTuple):
    """In characters of the text that carries it: of the value as found, of what stands in its place once replaced."""

    kind: ProtectedKind
    start: int
    end: int


class Protected(NamedTuple):
    text: str
    spans: list[Span]
    """Of what stands in place of each value in `text`."""
    refused: list[Span]
    """Of the values whose kind keeps the document out; they are masked in `text` like others."""


class Detector(NamedTuple):
    pattern: re.Pattern[str]
    """How a value looks. Where one may begin is known to `kernels.personal` as well."""
    holds: Callable[[str], bool] = lambda value: True


def luhn(value: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B), of 12 to 19 digits that begin as networks' numbers do."""
    digits = [int(digit) for digit in value if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    first = digits[0] in ((5, 6) if len(digits) == 12 else (2, 3, 4, 5, 6)) or digits[:4] == [1, 8, 0, 0]
    return first and 12 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def mod_97(value: str) -> bool:
    """The check digits of an IBAN (ISO 13616), of 15 to 34 characters."""
    compact = value.replace(" ", "").upper()
    numbers = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return 15 <= len(compact) <= 34 and int(numbers) % 97 == 1


def is_public_address(value: str) -> bool:
    """Private, reserved and documentation addresses identify nobody."""
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False


def is_phone(value: str) -> bool:
    """At least 7 digits, at most the 15 of E.164 beside an extension; 9 behind a 0, where a date has 8."""
    digits = sum(map(str.isdigit, value.partition("x")[0]))
    return (9 if value[0] == "0" else 7) <= digits <= 15


LOCAL_PART, LABEL = r"[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}", r"[A-Za-z0-9][A-Za-z0-9-]{0,62}"
OCTET = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
TOKENS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])",  # Amazon Web Services
    r"gh[pousr]_[A-Za-z0-9]{36,251}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,251}",
    r"glpat-[A-Za-z0-9_-]{20,64}",  # GitLab
    r"hf_[A-Za-z0-9]{30,64}",  # Hugging Face
    r"xox[abeoprs]-[A-Za-z0-9-]{10,250}",  # Slack
    r"AIza[0-9A-Za-z_-]{35}",  # Google
    r"sk[-_](?:live[-_]|test[-_]|proj-|ant-)?[A-Za-z0-9_-]{20,250}",  # OpenAI, Stripe, Anthropic
    r"eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,4000}",  # JSON Web Token (RFC 7519)
)
KEY_MARK = r"[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
GAP = r"(?:[\s\"',]|\\{1,2}[nrt])"  # line breaks are spelt \n in JSON and .env files
KEY_HEADERS = rf"(?:{GAP}{{1,8}}[A-Z][A-Za-z-]{{1,30}}: [^\n\\]{{0,200}}+){{0,8}}"  # RFC 1421, RFC 4880 section 6.2
# Up to the next mark and no further: a text full of beginnings is looked through once. What has no end is a key as far as
# lines of it follow. Groups are not possessive: Python before 3.11.5 goes wrong with them (gh-106052), and no match gives back any.
PRIVATE_KEY = (
    rf"-----BEGIN {KEY_MARK}{KEY_HEADERS}(?:"
    rf"(?:[A-Za-z0-9+/=\s:,\"'\\]|-(?!----(?:BEGIN|END) )){{1,20000}}-----END {KEY_MARK}"
    rf"|(?:{GAP}{{0,8}}[A-Za-z0-9+/=]{{20,2000}}+){{1,1000}}(?:{GAP}{{1,4}}[A-Za-z0-9+/=]{{1,64}}+)?)"
)

DETECTORS: dict[ProtectedKind, Detector] = {  # in this order: what one has claimed no later one looks at
    "secret": Detector(re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(TOKENS)})|{PRIVATE_KEY}")),
    "email": Detector(re.compile(rf"(?<![\w.%+-]){LOCAL_PART}@(?:{LABEL}\.){{1,8}}[A-Za-z]{{2,24}}(?![\w-])")),
    "iban": Detector(
        re.compile(r"(?<!\w)[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?(?!\w)"), mod_97
    ),
    "credit_card": Detector(re.compile(r"(?<![\w-])(?<![0-9][. ])[0-9](?:[ -]?[0-9]){11,18}(?![\w-])"), luhn),
    "national_id": Detector(national_ids.PATTERN, national_ids.is_national_id),
    "ip_address": Detector(
        re.compile(
            rf"(?<![\w.]){OCTET}(?:\.{OCTET}){{3}}(?![\w-]|\.[0-9])"
            r"|(?<![\w:.])[0-9A-Fa-f]{1,4}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])"
        ),
        is_public_address,
    ),
    "phone": Detector(
        re.compile(
            r"(?<![0-9A-Z][ -])(?:(?<![\w+])(?:\+|00)[0-9]{1,3}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?[0-9](?:[ ./-]?[0-9]){5,12}"
            r"|(?<![\w+.-])(?:\([0-9]{3}\) ?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}"
            r"|(?<![\w+.-])\(0?[0-9]{2,3}\) ?[0-9]{3,4}[ -][0-9]{3,4}"
            r"|(?<![\w+./-])0[0-9]{1,4}(?:(?:[ .-][0-9]{2,4}){2,4}|[ /-][0-9]{5,8}))"
            r"(?:x[0-9]{1,6})?(?!\w|[.-][0-9])"
        ),
        is_phone,
    ),
}


def read_key(config: ProtectConfig) -> bytes:
    """The secret under which values are hashed; empty where none is.

    Raises:
        ConfigError: its file cannot be read, or is too short or too long.
    """
    if "hash" not in config.actions.values():
        return b""
    assert config.key_file is not None
    where, remedy = (
        f"data.protect.key_file: {config.key_file}",
        "write 32 random bytes into it: `openssl rand 32 > FILE`",
    )
    try:
        key = Path(config.key_file).read_bytes()
    except OSError as error:
        raise ConfigError(where, f"cannot be read ({error.strerror})", remedy) from None
    if not 16 <= len(key) <= 64:
        raise ConfigError(where, f"has {len(key)} bytes, 16 to 64 are asked for", remedy)
    return key


def key_id(key: bytes) -> str:
    """Tells keys apart in the record without giving one away; empty for none."""
    return hashlib.blake2b(key, digest_size=8, person=b"serinus key id").hexdigest() if key else ""


def protect_column(
    texts: pa.Array, actions: Mapping[ProtectedKind, ProtectAction], key: bytes
) -> tuple[pa.Array, dict[int, Protected]]:
    """The texts with what was found replaced, and the findings by index."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = {i: protect(text, spans, actions, key) for i, (text, spans) in find(texts, tuple(actions)).items()}
    mask = np.zeros(len(texts), np.bool_)
    mask[list(found)] = True
    replaced = pa.array([protected.text for protected in found.values()], pa.large_string())
    return pc.replace_with_mask(texts, pa.array(mask), replaced), found


def find(texts: pa.Array, kinds: Sequence[ProtectedKind]) -> dict[int, tuple[str, list[Span]]]:
    """By index, ascending, the texts that hold something of these kinds, and where, from left to right; no two overlap."""
    from pipelines.data.kernels import personal
    from pipelines.data.kernels.characters import buffers

    starts, bits, bounds = personal.places(buffers(texts), sum(personal.BIT[kind] for kind in kinds))
    found = dict[int, tuple[str, list[Span]]]()
    for i in np.flatnonzero(np.diff(bounds)).tolist():
        text, here = texts[i].as_py(), slice(bounds[i], bounds[i + 1])
        places = list(zip(starts[here].tolist(), bits[here].tolist(), strict=True))
        if spans := _disjoint(len(text), (_matches(text, kind, places) for kind in DETECTORS if kind in kinds)):
            found[i] = text, spans
    return found


def protect(
    text: str, found: Sequence[Span], actions: Mapping[ProtectedKind, ProtectAction], key: bytes = b""
) -> Protected:
    """The text with `[KIND]` for what was found, and `[KIND_<12 hex digits>]` where the kind is hashed under `key`."""
    parts, spans, refused, done, length = list[str](), list[Span](), list[Span](), 0, 0
    for kind, start, end in found:
        digest = f"_{_keyed_hash(text[start:end], key)}" if actions[kind] == "hash" else ""
        before, instead = text[done:start], f"[{kind.upper()}{digest}]"
        length += len(before)
        span = Span(kind, length, length + len(instead))
        (refused if actions[kind] == "drop" else spans).append(span)
        parts += (before, instead)
        length, done = length + len(instead), end
    return Protected("".join((*parts, text[done:])), spans, refused)


def showing_more(before: pa.Array, after: pa.Array, indices: list[int], kinds: Sequence[ProtectedKind]) -> list[int]:
    """Of these texts, the indices of those in which values are found after a change that were not found before it."""
    chosen = np.array(indices, np.int64)
    were, are = find(before.take(chosen), kinds), find(after.take(chosen), kinds)
    return [indices[j] for j, found in are.items() if _values(found) - _values(were.get(j, ("", [])))]


def _values(found: tuple[str, list[Span]]) -> Counter[tuple[str, str]]:
    text, spans = found
    return Counter((kind, text[start:end]) for kind, start, end in spans)


def _disjoint(length: int, by_kind: Iterable[Iterable[Span]]) -> list[Span]:
    """What no earlier kind has claimed of a text of so many characters, from left to right."""
    spans: list[Span] = []
    claimed = bytearray(length)  # one for each character: asking all spans would take for ever in a long log
    for found in by_kind:
        free = [span for span in found if claimed.find(1, span.start, span.end) < 0]
        for _, start, end in free:
            claimed[start:end] = b"\1" * (end - start)
        spans += free
    return sorted(spans, key=lambda span: span.start)


def _matches(text: str, kind: ProtectedKind, places: Sequence[tuple[int, int]]) -> Iterator[Span]:
    """What `finditer` finds, where all that it can find begins at a place with the kind's bit; they ascend."""
    from pipelines.data.kernels.personal import BIT

    detector, bit, end = DETECTORS[kind], BIT[kind], 0
    for start, bits in places:
        if bits & bit and start >= end and (match := detector.pattern.match(text, start)):
            end = match.end()
            if detector.holds(match.group()):
                yield Span(kind, start, end)


def _keyed_hash(value: str, key: bytes) -> str:
    """Equal for equal values; without the key nobody can try out all telephone numbers (BLAKE2, RFC 7693)."""
    return hashlib.blake2b(value.encode(), key=key, digest_size=6).hexdigest()
