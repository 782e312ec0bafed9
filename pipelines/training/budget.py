"""What private runs on the same data have spent together, and whether another may. Kept in storage by compare-and-set.

Spendings add up, epsilons and deltas each (basic composition, Dwork et al. 2006; Dwork and Roth 2014, theorem 3.16). That
also holds where what a run asks for was chosen after seeing the runs before (Rogers et al. 2016, arXiv 1605.08294), as people
choose it, and tighter composition does not without more care.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import Field

from cluster.artifacts import Dataset
from cluster.config import StrictModel
from cluster.errors import Conflict, InputError, ResourceError
from cluster.storage import ABSENT, Blob, Storage
from pipelines.config import BudgetConfig

KEY = "privacy/ledger.json"


class BudgetSpent(ResourceError):
    """The data's budget does not allow the run. Nothing was begun."""


class Spending(StrictModel):
    """What one run may tell of its data. It is written before the run starts, for all its steps, and stays."""

    run: str
    """Key of the model."""
    noise: str
    """Name of the run's secret: a run that goes on has the same one, one that begins anew another."""
    data: tuple[str, ...]
    """Paths and hashes of the files that the data came from."""
    epsilon: float
    delta: float
    budget: BudgetConfig
    """As the run's recipe had it."""
    is_guaranteed: bool = True
    reserved_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Spendings(StrictModel):
    spendings: tuple[Spending, ...] = ()


def data_of(dataset: Dataset) -> tuple[str, ...]:
    """How the dataset's origin is known again in other versions of it, also where a file has grown or has moved."""
    names = {f"dataset {dataset.key}"}
    for source in dataset.sources:
        names |= {source.path, source.sha256}
    return tuple(sorted(names))


def on_same_data(spendings: Iterable[Spending], data: Iterable[str]) -> tuple[Spending, ...]:
    """Those whose data has a file in common with `data`."""
    wanted = set(data)
    return tuple(spent for spent in spendings if wanted & set(spent.data))


def total(spendings: Iterable[Spending]) -> tuple[float, float]:
    """Epsilon and delta of all together."""
    listed = list(spendings)
    return sum(spent.epsilon for spent in listed), sum(spent.delta for spent in listed)


def refusal(before: tuple[Spending, ...], wanted: Spending) -> str | None:
    """Why the run would spend more than may be spent on its data, or None. The smallest budget that a run on this data was ever
    promised under holds: a later recipe cannot take that promise back."""
    budgets = [spent.budget for spent in (*before, wanted)]
    allowed = min(b.epsilon for b in budgets), min(b.delta for b in budgets)
    spent, asked = total(before), total((*before, wanted))
    if all(found <= most * (1 + 1e-9) for found, most in zip(asked, allowed, strict=True)):
        return None
    return (
        f"this run spends epsilon {wanted.epsilon:.3g} at delta {wanted.delta:.2g}; {len(before)} run(s) on the same data"
        f" have spent {spent[0]:.3g} at {spent[1]:.2g}, of {allowed[0]:.3g} at {allowed[1]:.2g}"
    )


def read_spendings(storage: Storage) -> tuple[Spending, ...]:
    """All that is on record."""
    return _spendings(storage, storage.read(KEY))


def _spendings(storage: Storage, blob: Blob | None) -> tuple[Spending, ...]:
    try:
        return Spendings.model_validate_json(blob.content).spendings if blob else ()
    except ValueError:
        # Not begun anew: what was spent would be forgotten.
        found = "cannot be read (damaged, or of another version of serinus)"
        raise InputError(
            f"{storage.uri}/{KEY}", found, "restore the file: it says what was spent of each data"
        ) from None


def reserve(storage: Storage, wanted: Spending) -> tuple[float, float]:
    """Write the spending down, unless it is there, and give what is then spent on its data: epsilon and delta.

    Raises:
        BudgetSpent: it is more than the budget.
        InputError: the record is damaged.
    """
    while True:
        blob = storage.read(KEY)
        present = _spendings(storage, blob)
        before = on_same_data(present, wanted.data)
        for spent in before:
            if spent.noise == wanted.noise and spent.run == wanted.run:
                _check_same(spent, wanted)
                return total(before)
        if found := refusal(before, wanted):
            raise BudgetSpent(
                "train.privacy.budget",
                found,
                f"lower target_epsilon and delta to what is left, or take other data ({storage.uri}/{KEY})",
            )
        made = Spendings(spendings=(*present, wanted)).model_dump_json(indent=1).encode()
        try:
            storage.write(KEY, made, expect=blob.version if blob else ABSENT)
        except Conflict:
            continue  # another run was faster: what is left is not what it was
        return total((*before, wanted))


def _check_same(spent: Spending, wanted: Spending) -> None:
    """The noise of a run that goes on is the same draws. Under another deviation their difference would tell the gradients."""
    if abs(spent.epsilon - wanted.epsilon) > 1e-6 * spent.epsilon or spent.delta != wanted.delta:
        raise ResourceError(
            f"train.privacy: run {wanted.run}",
            f"it began under epsilon {spent.epsilon:.6g}, and the accountant now says {wanted.epsilon:.6g}",
            f"end it with the versions it began with, or remove runs/train/{wanted.run} and pay again",
        )
