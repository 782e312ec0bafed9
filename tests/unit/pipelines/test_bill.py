"""What node hours are reckoned as: by rates that were given, never by others."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.artifacts import Ledger
from pipelines.bill import UNTOLD, figure, reckon
from pipelines.config import LedgerConfig
from pipelines.config.carbon import intensity

HOURS = {"clean": {"data": 2.0}, "train": {"data": 1.0, "train": 3.0}}
NODES = {"data": {"watts": 200, "price_per_hour": 0.5}, "train": {"watts": 1_000, "price_per_hour": 12.0}}


def rates(**given: Any) -> LedgerConfig:
    return LedgerConfig.model_validate(given)


def trained(**given: Any) -> Ledger:
    told = {
        "num_tokens": 1,
        "flops": 1.0,
        "flops_basis": "",
        "device": "x86_64 CPU",
        "num_devices": 2,
        "trained_s": 1.0,
    }
    return Ledger.model_validate({**told, "energy_basis": "basis", **given})


def test_energy_carbon_and_money_by_pool() -> None:
    made = reckon(HOURS, rates(nodes=NODES, pue=1.5, carbon_g_per_kwh=100, currency="EUR"), ())
    clean, train = made.charges
    assert (clean.node_hours, clean.energy_wh, clean.money) == (2, 400, 1)
    assert (train.node_hours, train.energy_wh, train.money) == (4, 3_200, 36.5)
    assert clean.carbon_g == pytest.approx(0.4 * 1.5 * 100)
    assert made.words == "6 node hours, 3,600 Wh, 540 g CO2e, 37.5 EUR"
    assert "PUE 1.5 x 100 g/kWh (ledger.carbon_g_per_kwh)" in made.carbon_basis
    assert "whole nodes" in clean.energy_basis


def test_what_counters_told_comes_before_what_nodes_are_said_to_draw_and_that_before_an_estimate() -> None:
    measured = trained(energy_measured_wh=70, energy_basis="measured: RAPL")
    by_counters = reckon(HOURS, rates(nodes=NODES), [measured, measured]).charges[1]
    assert (by_counters.energy_wh, by_counters.energy_basis) == (
        140,
        "measured: RAPL, in steps and while checkpoints are written",
    )
    estimated = trained(energy_estimate_wh=50, energy_basis="estimate: watts")
    assert reckon(HOURS, rates(nodes=NODES), [measured, estimated]).charges[1].energy_wh == 3_200
    alone = reckon(HOURS, rates(), [estimated]).charges[1]
    assert (alone.energy_wh, alone.energy_basis) == (50, "estimate: watts")


def test_what_is_not_known_is_not_said() -> None:
    made = reckon(HOURS, rates(nodes={"data": {"watts": 200}}), ())
    clean, train = made.charges
    assert (clean.energy_wh, clean.carbon_g, clean.money) == (400, None, None)
    assert (train.energy_wh, train.energy_basis) == (None, "not estimated: give ledger.nodes.train.watts")
    assert made.totals == {"node_hours": 6}
    assert made.words == "6 node hours"
    assert made.carbon_basis.startswith("not told: give ledger.region")


def test_hours_of_an_earlier_version_count_and_are_not_priced() -> None:
    clean, train = reckon(
        {"clean": {UNTOLD: 2.0}, "train": {UNTOLD: 1.0, "train": 3.0}}, rates(nodes=NODES), ()
    ).charges
    assert (clean.node_hours, train.node_hours) == (2, 4)
    assert clean.money is train.money is train.energy_wh is None
    assert train.energy_basis == "not estimated: an earlier version counted a part of the hours, without their pools"


@pytest.mark.parametrize(
    ("value", "told"), [(0.00123, "0.00123"), (37.5, "37.5"), (99.96, "100"), (1234.5, "1,234"), (3.21e7, "32,100,000")]
)
def test_figures_are_told_without_powers_of_ten(value: float, told: str) -> None:
    assert figure(value) == told


def test_a_region_stands_for_its_average() -> None:
    made = reckon({"clean": {"data": 5.0}}, rates(region="DEU", nodes=NODES), ())
    assert made.charges[0].carbon_g == pytest.approx(intensity("DEU").g_per_kwh)  # of a kilowatt hour
    assert "energy of the machines alone x 380.95 g/kWh (average of DEU, 2023" in made.carbon_basis
    assert rates(region="gcp:europe-west1").region is not None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"region": "Germany"}, r"'Germany' is not known: a country by three letters or gcp:REGION"),
        ({"region": "gcp:europe-west99"}, r"gcp:europe-west9"),
        ({"region": "deu"}, r"region\n.*'deu' is not known: .*\(DEU"),
        ({"region": "europe-west1"}, r"gcp:europe-west1"),
        ({"region": "DEU", "carbon_g_per_kwh": 1}, "say the same"),
        ({"pue": 0.9}, "greater than or equal to 1"),
        ({"currency": "euro"}, "pattern"),
        ({"nodes": {"trian": {"watts": 1}}}, "trian"),
        ({"nodes": {"train": {"watt": 1}}}, "watt"),
    ],
)
def test_rates_that_cannot_be_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        rates(**given)


def test_every_region_of_the_table_has_a_figure() -> None:
    from pipelines.config.carbon import _table

    assert len(_table()) > 200
    assert all(0 < one.g_per_kwh < 1_500 for one in _table().values())
