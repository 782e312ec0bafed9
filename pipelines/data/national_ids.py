"""Numbers by which states know people: found by their form, decided by checks of dates and check digits, most of them
python-stdnum's.

Only forms that are told from other numbers: countries whose number is bare digits without a mark are left out. Nothing depends on
today's date, as two of python-stdnum's checks do: what a text becomes must not change with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from stdnum import luhn
from stdnum.br import cpf
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.us import ssn


class Form(NamedTuple):
    pattern: str
    """As people write it."""
    holds: Callable[[str], bool]
    is_grouped: bool = False
    """With blanks between its digits: the numbers before and behind may be parts of a longer one."""


def belgian(value: str) -> bool:
    """The check digits, of those born from 2000 on with a 2 before the number (Royal Decree of 3 April 1984, article 3)."""
    digits = value.replace(".", "").replace("-", "")
    body, check = int(digits[:9]), int(digits[9:])
    return check in (97 - body % 97, 97 - (2_000_000_000 + body) % 97) and int(digits[2:4]) % 20 <= 12


def swedish(value: str) -> bool:
    """The check digit (Luhn, of the last ten digits) and a day of a month."""
    digits = re.sub("[-+]", "", value)[-10:]
    return luhn.is_valid(digits) and 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) <= 31


FORMS: dict[str, Form] = {
    "Belgium, national number": Form(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", belgian),
    "Brazil, CPF": Form(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", cpf.is_valid),
    "China, resident identity number": Form(r"[1-9][0-9]{16}[0-9Xx]", ric.is_valid),
    "Finland, HETU": Form(r"(?i:[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y])", hetu.is_valid),
    "France, NIR": Form(
        r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", nir.is_valid, is_grouped=True
    ),
    "Germany, IdNr": Form(r"[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}", idnr.is_valid, is_grouped=True),
    "India, Aadhaar": Form(r"[2-9][0-9]{3} [0-9]{4} [0-9]{4}", aadhaar.is_valid, is_grouped=True),
    "Italy, codice fiscale": Form(
        r"(?i:[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z])", codicefiscale.is_valid
    ),
    "Spain, DNI": Form(r"(?i:[0-9]{8}-?[A-Z])", dni.is_valid),
    "Spain, NIE": Form(r"(?i:[XYZ]-?[0-9]{7}-?[A-Z])", nie.is_valid),
    "Sweden, personnummer": Form(r"(?:19|20)?[0-9]{6}[-+][0-9]{4}", swedish),
    "Switzerland, AHV": Form(r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", ahv.is_valid),
    "United Kingdom, NINO": Form(  # without a check digit
        r"(?:[AC-EHJ-MPR-TW-Z][A-CEGHJ-NPR-TW-Z]|[OB][A-CEHJ-NPR-TW-Z]|G[ACEGHJ-MPR-TW-Z]|N[A-CEGHJLMNPR-SW-Z])"
        r" ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
        lambda value: True,
    ),
    "United States, SSN": Form(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", ssn.is_valid),
}

PATTERN = re.compile(
    r"(?<![0-9A-Za-z_.+-])(?:"
    + "|".join(rf"(?<![0-9] ){form.pattern}(?! [0-9])" if form.is_grouped else form.pattern for form in FORMS.values())
    + r")(?![0-9A-Za-z_-]|\.[0-9])",
    re.ASCII,  # small and capital letters are those of ASCII alone
)
_WHOLE = [(re.compile(form.pattern, re.ASCII), form.holds) for form in FORMS.values()]


def is_national_id(value: str) -> bool:
    """Whether one of the forms that the value has also holds its checks."""
    return any(whole.fullmatch(value) and holds(value) for whole, holds in _WHOLE)
