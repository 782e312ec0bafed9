"""The same run by one plain loop over single documents, and by ZeRO 1, 2 and 3 on two ranks over packed sequences; and
runs that go on with another number of ranks and another ZeRO stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import TrainConfig
from pipelines.training import slices
from pipelines.training.guard import data_step
from pipelines.training.packing import Share, checksum, num_sequences, sequence_ids
from tests.integration.training_plain import TOLERANCE, config, plain_losses, private_losses
from tests.integration.training_ranks import documents, run_phases

pytestmark = [pytest.mark.integration, pytest.mark.long]

STAGES = (1, 2, 3)


PRIVATE = config(
    zero={"stage": 2}, num_steps=12, privacy={"noise_multiplier": 0.8, "max_gradient_norm": 0.5}, sequences_per_step=16
)

SPOILT = 8
"""The step, from 0, whose data makes the loss no number in one of the runs."""


def case(precision: str, stage: int, num_workers: int = 2, **more: Any) -> dict[str, Any]:
    return {"config": config(precision=precision, zero={"stage": stage}, num_workers=num_workers), **more}


ROADS = {"float32": (3, 1, 2), "bfloat16": (1, 3, 3)}
"""ZeRO stages of the two ranks that begin, the one that takes over, and the two that end the run."""


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, list[dict[str, Any]]]:
    """Two ranks at each (precision, stage) to the end, and each precision's road: two, one and two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    keys = [(precision, stage) for precision in TOLERANCE for stage in STAGES]
    whole = [case(*key, save=str(folder / f"{key[0]}-{key[1]}"), save_at=6) for key in keys]
    alone = [
        case(p, road[1], 1, load=str(folder / f"{p}-{road[0]}"), save=str(folder / p), save_at=11)
        for p, road in ROADS.items()
    ]
    again = [case(p, road[2], 2, load=str(folder / p)) for p, road in ROADS.items()]
    again += [{"config": consolidated(stage)} for stage in STAGES]
    fisher = [str(folder / "fisher"), 2]
    whole.append({"config": consolidated(3), "keep": fisher[0]})
    again.append({"config": consolidated(2, online=ONLINE), "earlier": fisher})
    one_rank = {"num_workers": 1, "zero": {"stage": 1}}
    alone.insert(0, {"config": {**consolidated(1), **one_rank}, "keep": str(folder / "own")})
    alone.insert(
        0, {"config": {**consolidated(1, online=ONLINE), **one_rank}, "earlier": fisher, "keep": str(folder / "sum")}
    )
    again.append(case("float32", 3, save=str(folder / "spoilt"), save_at=6, spoil=SPOILT))
    kept = str(folder / "private")
    whole.append({"config": PRIVATE, "save": kept, "save_at": 6})
    alone.append({"config": {**PRIVATE, "num_workers": 1, "zero": {"stage": 0}}, "load": kept})
    wholes, alones, (*roads, one, two, three, online, spoilt) = run_phases(
        [(2, whole), (1, alone), (2, again)], tiny_model, folder
    )
    return {
        "spoilt": spoilt,
        "private": [wholes.pop(), alones[-1]],
        "consolidated": [wholes.pop(), one, two, three],
        "online": online,
        "fishers": [read_fisher(folder / name, ranks) for name, ranks in (("fisher", 2), ("own", 1), ("sum", 1))],
        **dict(zip(keys, wholes, strict=True)),
        **dict(zip(ROADS, roads, strict=True)),
    }


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> dict[str, list[float]]:
    return {p: plain_losses(tiny_model, TrainConfig.model_validate(config(precision=p))) for p in TOLERANCE}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_zero_on_two_ranks_learns_what_one_plain_process_learns(
    runs: Any, plain: dict[str, list[float]], precision: str, stage: int
) -> None:
    losses = [point["loss"] for point in runs[precision, stage]]
    assert losses == pytest.approx(plain[precision], rel=TOLERANCE[precision])
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_run_goes_on_with_other_ranks_and_stages(runs: Any, plain: dict[str, list[float]], precision: str) -> None:
    points = runs[precision]
    assert [point["loss"] for point in points] == pytest.approx(plain[precision], rel=TOLERANCE[precision])
    assert [point["sequences_checksum"] for point in points] == checksums()


def test_a_loss_that_is_no_number_costs_the_way_back_and_that_step_s_data(runs: Any, tiny_model: Path) -> None:
    points, settings = runs["spoilt"], TrainConfig.model_validate(config())
    assert points[-1]["incidents"] == 1
    assert [point["loss"] for point in points] == pytest.approx(plain_losses(tiny_model, settings, (SPOILT,)), rel=1e-5)
    assert [point["sequences_checksum"] for point in points] == checksums((SPOILT,))


ONLINE = {"checkpoint": "0" * 16, "decay": 0.5}


def consolidated(stage: int, **more: Any) -> dict[str, Any]:
    asked = {"dataset": "0" * 16, "weight": 1e5, "num_sequences": 8, **more}
    return config(zero={"stage": stage}, consolidation=asked)


def test_consolidation_is_that_of_one_process_at_every_stage(
    runs: Any, plain: dict[str, list[float]], tiny_model: Path
) -> None:
    held = plain_losses(tiny_model, TrainConfig.model_validate(consolidated(1)))
    for points in runs["consolidated"]:
        assert [point["loss"] for point in points] == pytest.approx(held, rel=1e-4)
    assert held[0] == plain["float32"][0]
    assert held[-1] > plain["float32"][-1] * 1.003  # it learns less of the new where that costs the old


def test_a_chain_s_second_run_holds_by_both_diagonals(runs: Any, tiny_model: Path) -> None:
    held = plain_losses(tiny_model, TrainConfig.model_validate(consolidated(2, online=ONLINE)))
    assert [point["loss"] for point in runs["online"]] == pytest.approx(held, rel=1e-4)
    assert held[-1] > runs["consolidated"][0][-1]["loss"] * 1.0005  # it is held more firmly than by one alone


def read_fisher(folder: Path, num_ranks: int) -> dict[str, Any]:
    """All that is kept in there, by parameter."""
    indices = [slices.Index.model_validate_json((folder / f"{n}.json").read_bytes()) for n in range(num_ranks)]
    ends: dict[str, int] = {}
    for placed in (placed for index in indices for placed in index.slices):
        ends[placed.name] = max(ends.get(placed.name, 0), placed.start + placed.num)
    reader = slices.Reader(folder, num_ranks)
    return {name: reader.read(slices.Slice(name, slices.FISHER, 0, end)) for name, end in ends.items()}


def test_what_two_ranks_kept_of_what_matters_is_read_by_one(runs: Any) -> None:
    earlier, own, both = runs["fishers"]
    assert earlier.keys() == own.keys() == both.keys()
    for name, values in both.items():
        assert values == pytest.approx(own[name] + 0.5 * earlier[name], rel=1e-4, abs=1e-12)
    assert sum(float(values.sum()) for values in earlier.values()) > 0


def test_a_private_run_is_one_process_s_at_any_number_of_ranks_and_goes_on_with_the_same_draws(
    runs: Any, tiny_model: Path
) -> None:
    wanted = private_losses(tiny_model, TrainConfig.model_validate(PRIVATE))
    for points in runs["private"]:
        assert [point["loss"] for point in points] == pytest.approx(wanted, rel=1e-4)
        assert all(point["sequences_checksum"] == 0 for point in points)  # nobody is told who was drawn
    assert runs["private"][1][-1]["epsilon"] == 1.0


def checksums(left_out: tuple[int, ...] = ()) -> list[int]:
    """Of the sequences that each step has to take, worked out for one rank."""
    settings = TrainConfig.model_validate(config())
    num = num_sequences(len(documents()), settings.sequence_length)
    share = Share(0, 1, settings.total_sequences)
    return [
        checksum(sequence_ids(share, data_step(step, left_out), 0, num, settings.seed))
        for step in range(settings.num_steps)
    ]
