"""What node hours come to in energy, carbon and money. Pure; every figure says what it rests on, what is not known is not said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.artifacts import Ledger
from cluster.config import StrictModel
from pipelines.config import LedgerConfig
from pipelines.config.carbon import intensity

UNTOLD = ""
"""Instead of the pool where that is not on record."""


def figure(value: float) -> str:
    """For people: three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Charge(StrictModel):
    """Of one stage."""

    stage: str
    node_hours: float
    energy_wh: float | None = None
    """Of the machines."""
    energy_basis: str
    carbon_g: float | None = None
    """CO2 equivalents, of all that the data centre drew for it."""
    money: float | None = None


class Bill(StrictModel):
    """Of one lifecycle."""

    charges: tuple[Charge, ...]
    currency: str
    pue: float | None
    carbon_basis: str

    @property
    def totals(self) -> dict[str, float]:
        """Of each column the sum, where all stages are known; by its field's name."""
        columns = ("node_hours", "energy_wh", "carbon_g", "money")
        sums = {name: _sum([getattr(charge, name) for charge in self.charges]) for name in columns}
        return {name: value for name, value in sums.items() if value is not None}

    @property
    def words(self) -> str:
        """For people: what is known of all stages."""
        told = self.totals
        units = {"energy_wh": "Wh", "carbon_g": "g CO2e", "money": self.currency}
        return ", ".join(
            [
                f"{figure(told['node_hours'])} node hours",
                *(f"{figure(told[n])} {u}" for n, u in units.items() if n in told),
            ]
        )


def reckon(hours: Mapping[str, Mapping[str, float]], rates: LedgerConfig, trained: Sequence[Ledger]) -> Bill:
    """The bill of these node hours.

    Args:
        hours: stage -> pool -> node hours.
        trained: of all training among them: its own account of energy is that of its ranks and not of whole nodes.
    """
    grams, carbon_basis = _carbon(rates)
    charges = []
    for stage, by_pool in hours.items():
        energy, basis = _energy(by_pool, rates, trained if stage == "train" else ())
        charges.append(
            Charge(
                stage=stage,
                node_hours=sum(by_pool.values()),
                energy_wh=energy,
                energy_basis=basis,
                carbon_g=None if energy is None or grams is None else energy / 1000 * (rates.pue or 1.0) * grams,
                money=_each(by_pool, {pool: node.price_per_hour for pool, node in rates.nodes.items()}),
            )
        )
    return Bill(charges=tuple(charges), currency=rates.currency, pue=rates.pue, carbon_basis=carbon_basis)


def _energy(by_pool: Mapping[str, float], rates: LedgerConfig, trained: Sequence[Ledger]) -> tuple[float | None, str]:
    """In watt hours: as counters told it, else by what the nodes are said to draw, else as the training estimates it."""
    bases = ", ".join(dict.fromkeys(ledger.energy_basis for ledger in trained))
    measured = [ledger.energy_measured_wh for ledger in trained]
    if (energy := _sum(measured)) is not None:
        return energy, f"{bases}, in steps and while checkpoints are written"
    watts: dict[str, float | None] = {pool: node.watts for pool, node in rates.nodes.items()}
    if (drawn := _each(by_pool, watts)) is not None:
        return drawn, "estimate: ledger.nodes' watts x node hours, whole nodes"
    if (energy := _sum([ledger.energy_wh for ledger in trained])) is not None:
        return energy, bases
    if UNTOLD in by_pool:
        return None, "not estimated: an earlier version counted a part of the hours, without their pools"
    missing = ", ".join(f"ledger.nodes.{pool}.watts" for pool in by_pool if watts.get(pool) is None)
    return None, f"not estimated: give {missing}"


def _each(by_pool: Mapping[str, float], rate_of: Mapping[str, float | None]) -> float | None:
    """Sum of hours x rates; None where one is not known."""
    return _sum([None if (rate := rate_of.get(pool)) is None else hours * rate for pool, hours in by_pool.items()])


def _sum(parts: Sequence[float | None]) -> float | None:
    """None where there is none, or one is not known."""
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None


def _carbon(rates: LedgerConfig) -> tuple[float | None, str]:
    """Grams a kilowatt hour, and what they rest on."""
    how = "energy of the machines alone" if rates.pue is None else f"energy of the machines x PUE {rates.pue:g}"
    if rates.carbon_g_per_kwh is not None:
        return rates.carbon_g_per_kwh, f"{how} x {rates.carbon_g_per_kwh:g} g/kWh (ledger.carbon_g_per_kwh)"
    if rates.region is not None:
        grams, year = intensity(rates.region)
        when = f", {year}" if year else ""
        return grams, f"{how} x {grams:g} g/kWh (average of {rates.region}{when}; pipelines/config/carbon.csv)"
    return None, "not told: give ledger.region or ledger.carbon_g_per_kwh"
