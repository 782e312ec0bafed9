"""Numbers by which states know people: found by their form, decided by python-stdnum's checks of dates and check digits.

Only forms that are told from other numbers: countries whose number is bare digits without a mark are left out.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import NamedTuple


class Form(NamedTuple):
    pattern: str
    """As people write it."""
    check: str
    """Module of stdnum; empty where the form is all there is."""


FORMS: dict[str, Form] = {
    "Belgium, national number": Form(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", "be.nn"),
    "Brazil, CPF": Form(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "br.cpf"),
    "China, resident identity number": Form(r"[1-9][0-9]{16}[0-9Xx]", "cn.ric"),
    "Finland, HETU": Form(r"[0-9]{6}[-+A][0-9]{3}[0-9A-FHJ-NPR-Y]", "fi.hetu"),
    "France, NIR": Form(
        r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
        "fr.nir",
    ),
    "Germany, IdNr": Form(r"[1-9][0-9] [0-9]{3} [0-9]{3} [0-9]{3}", "de.idnr"),
    "India, Aadhaar": Form(r"[2-9][0-9]{3} [0-9]{4} [0-9]{4}", "in_.aadhaar"),
    "Italy, codice fiscale": Form(r"[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z]", "it.codicefiscale"),
    "Spain, DNI": Form(r"[0-9]{8}-?[A-Z]", "es.dni"),
    "Spain, NIE": Form(r"[XYZ]-?[0-9]{7}-?[A-Z]", "es.nie"),
    "Sweden, personnummer": Form(r"(?:19|20)?[0-9]{6}[-+][0-9]{4}", "se.personnummer"),
    "Switzerland, AHV": Form(r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", "ch.ssn"),
    "United Kingdom, NINO": Form(
        r"(?:[AC-EHJ-MPR-TW-Z][A-CEGHJ-NPR-TW-Z]|[OB][A-CEHJ-NPR-TW-Z]|G[ACEGHJ-MPR-TW-Z]|N[A-CEGHJLMNPR-SW-Z])"
        r" ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
        "",
    ),
    "United States, SSN": Form(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", "us.ssn"),
}

PATTERN = re.compile(
    rf"(?<![0-9A-Za-z_.+-])(?<![0-9] )(?:{'|'.join(form.pattern for form in FORMS.values())})(?![0-9A-Za-z_-]|[. ][0-9])"
)
_WHOLE = [(re.compile(form.pattern), form.check) for form in FORMS.values()]


def is_national_id(value: str) -> bool:
    """Whether one of the forms that the value has also holds its checks."""
    return any(
        whole.fullmatch(value) and (not check or import_module(f"stdnum.{check}").is_valid(value))
        for whole, check in _WHOLE
    )
