"""How much carbon a kilowatt hour stands for, by region."""

from __future__ import annotations

import csv
import difflib
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_suffix(".csv")
"""With its sources."""


class Intensity(NamedTuple):
    """Of electricity in a region, an average over a year."""

    g_per_kwh: float
    """Grams of CO2 equivalents."""
    year: str
    """Empty where the source tells none."""


def intensity(region: str) -> Intensity:
    """Of a country (ISO 3166-1 alpha-3) or `gcp:` and a region of Google Cloud.

    Raises:
        ValueError: it is not in the table.
    """
    if (found := _table().get(region)) is not None:
        return found
    spelt = region.lower() if ":" in region or "-" in region else region.upper()
    near = ", ".join(difflib.get_close_matches(spelt, _table(), cutoff=0.4)) or "DEU, USA, gcp:europe-west1"
    raise ValueError(
        f"region {region!r} is not known: a country by three letters or gcp:REGION ({near}), or give carbon_g_per_kwh"
    )


@cache
def _table() -> dict[str, Intensity]:
    lines = (line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return {row["region"]: Intensity(float(row["g_per_kwh"]), row["year"]) for row in csv.DictReader(lines)}
