"""What runs on the same data may spend together."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.artifacts import Dataset, Source
from cluster.errors import InputError, ResourceError
from cluster.storage import LocalStorage
from pipelines.config import BudgetConfig, InstructConfig, TrainConfig
from pipelines.training import budget
from pipelines.training.budget import Spending, data_of, on_same_data, read_spendings, refusal, reserve
from pipelines.training.private_run import origin


def spending(run: str, epsilon: float = 1.0, delta: float = 1e-6, **fields: Any) -> Spending:
    given = {"noise": f"of {run}", "data": ("a.jsonl",), "budget": BudgetConfig(), **fields}
    return Spending(run=run, epsilon=epsilon, delta=delta, **given)


def test_runs_add_up_until_the_budget_is_spent(storage: LocalStorage) -> None:
    assert reserve(storage, spending("one", 1.5)) == (1.5, 1e-6)
    assert reserve(storage, spending("two", 1.5))[0] == 3.0
    with pytest.raises(ResourceError) as refused:
        reserve(storage, spending("three", 0.01))
    assert "spends epsilon 0.01 at delta 1e-06; 2 run(s) on the same data have spent 3 at 2e-06, of 3 at 1e-05" in str(
        refused.value
    )
    assert [spent.run for spent in read_spendings(storage)] == ["one", "two"]
    assert reserve(storage, spending("elsewhere", 3.0, data=("b.jsonl",)))[0] == 3.0


def test_deltas_add_up_too() -> None:
    before = (spending("one", 0.1, 9e-6),)
    assert refusal(before, spending("two", 0.1, 1e-6)) is None
    assert refusal(before, spending("two", 0.1, 2e-6))


def test_a_run_that_goes_on_pays_once_and_one_begun_anew_pays_again(storage: LocalStorage) -> None:
    for _ in range(2):
        assert reserve(storage, spending("one", 2.0))[0] == 2.0
    with pytest.raises(ResourceError, match="1 run"):
        reserve(storage, spending("one", 2.0, noise="another secret"))


def test_a_run_does_not_go_on_with_other_noise(storage: LocalStorage) -> None:
    """The same draws times another deviation: the difference of both tells the gradient."""
    reserve(storage, spending("one", 2.0))
    with pytest.raises(ResourceError, match="began under epsilon 2"):
        reserve(storage, spending("one", 2.5))


def test_a_later_recipe_cannot_take_a_promise_back() -> None:
    before = (spending("one", 1.0, budget=BudgetConfig(epsilon=2)),)
    generous = BudgetConfig(epsilon=100, delta=0.1)
    assert refusal(before, spending("two", 1.0, budget=generous)) is None
    found = refusal(before, spending("two", 1.1, budget=generous))
    assert found is not None
    assert "of 2 at 1e-05" in found
    assert refusal((), spending("two", 3.1, budget=BudgetConfig(epsilon=2)))


def test_versions_of_a_dataset_are_the_same_data() -> None:
    def version(key: str, *sources: tuple[str, str]) -> tuple[str, ...]:
        files = tuple(Source(path=path, num_bytes=1, sha256=sha) for path, sha in sources)
        return data_of(Dataset(key=key * 16, sources=files))

    old = spending("one", data=version("a", ("notes.jsonl", "1"), ("more.jsonl", "2")))
    assert on_same_data([old], version("b", ("notes.jsonl", "3")))  # the file has grown
    assert on_same_data([old], version("c", ("moved.jsonl", "2")))  # it lies elsewhere
    assert not on_same_data([old], version("d", ("other.jsonl", "4")))


def test_a_file_made_as_annotations_of_documents_is_the_same_data_as_these() -> None:
    method = InstructConfig(path="chats.jsonl")
    dataset = Dataset(key="a" * 16, sources=(Source(path="notes.jsonl", num_bytes=1, sha256="1"),))
    file = origin(TrainConfig(method=method), dataset, "2")
    assert not on_same_data([spending("one", data=data_of(dataset))], file)
    annotated = origin(TrainConfig(method=method), Dataset(key="b" * 16), "2", annotated=dataset)
    assert {"chats.jsonl", "2"} < set(annotated)
    assert on_same_data([spending("one", data=data_of(dataset))], annotated)


def test_a_record_that_cannot_be_read_is_not_begun_anew(storage: LocalStorage) -> None:
    storage.write(budget.KEY, b'{"spendings": [')
    for act in (lambda: read_spendings(storage), lambda: reserve(storage, spending("one"))):
        with pytest.raises(InputError, match="restore the file"):
            act()


def test_two_runs_at_once_do_not_both_get_what_is_left(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between one's reading and its writing the other writes."""
    read, others = budget.on_same_data, [spending("faster", 2.5)]

    def slow(*given: Any) -> Any:
        if others:
            reserve(storage, others.pop())
        return read(*given)

    monkeypatch.setattr(budget, "on_same_data", slow)
    with pytest.raises(ResourceError, match=r"have spent 2\.5"):
        reserve(storage, spending("slower", 1.0))
    assert [spent.run for spent in read_spendings(storage)] == ["faster"]
