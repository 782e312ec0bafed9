"""Node hours of a lifecycle, over all runs until it has its verdict: the account, and whether it may go on. No Ray here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import ValidationError

from cluster.artifacts import digest
from cluster.config import StrictModel
from cluster.errors import InputError, ResourceError
from cluster.storage import Storage
from pipelines.bill import UNTOLD, Bill
from pipelines.config import LifecycleConfig, Stage

MAKING = {"data", "model", "train", "progressive", "evaluate", "quantize", "gate"}
"""Fields of a recipe that decide what is made: with others in them it is another lifecycle, with an account of its own."""


class Spent(StrictModel):
    """On one artifact, in one run."""

    stage: Stage
    role: str
    node_s: float
    """Sum over nodes of the seconds that they were held."""
    node_s_by_pool: dict[str, float] = {}
    """The same by the pools that the nodes belong to."""
    num_nodes: int
    """The most at once."""
    began_at: datetime


class Account(StrictModel):
    """Of one lifecycle. It lies in spending/<name>/ from the first second that counts."""

    name: str
    recipe: str
    """Digest of what decides what is made."""
    began_at: datetime
    spent: tuple[Spent, ...] = ()
    gate: str | None = None
    """Digest of the verdict, with which the account is closed."""
    bill: Bill | None = None
    """Of a closed account, by the rates of its time."""

    @property
    def node_hours(self) -> float:
        return sum(one.node_s for one in self.spent) / 3600

    @property
    def by_stage(self) -> dict[str, float]:
        """Node hours of each stage, in the order in which they came."""
        hours: dict[str, float] = {}
        for one in self.spent:
            hours[one.stage] = hours.get(one.stage, 0.0) + one.node_s / 3600
        return hours

    @property
    def by_pool(self) -> dict[str, dict[str, float]]:
        """Stage -> pool -> node hours; UNTOLD is the pool of what an earlier version counted."""
        hours: dict[str, dict[str, float]] = {}
        for one in self.spent:
            pools = hours.setdefault(one.stage, {})
            for pool, seconds in (one.node_s_by_pool or {UNTOLD: one.node_s}).items():
                pools[pool] = pools.get(pool, 0.0) + seconds / 3600
        return hours

    @property
    def words(self) -> str:
        """For people."""
        stages = ", ".join(f"{stage} {hours:.3g}" for stage, hours in self.by_stage.items())
        return f"{self.node_hours:.3g}" + (f" ({stages})" if stages else "")

    @property
    def key(self) -> str:
        return f"spending/{self.name}/{self.began_at:%Y%m%dT%H%M%S.%f}.json"


class BudgetExceeded(ResourceError):
    """The lifecycle's node hours are spent. What was made is kept."""


def check(account: Account, recipe: LifecycleConfig, stage: Stage, role: str) -> None:
    """Raises BudgetExceeded: nothing is left of the recipe's budget, and `stage` would take nodes for `role`."""
    if recipe.budget is None or account.node_hours < recipe.budget.node_hours:
        return
    raise BudgetExceeded(
        "budget.node_hours",
        f"of {recipe.budget.node_hours:g} node hours {account.words} are spent; stopped before {stage} ({role}), all made before"
        " is kept",
        "raise it and run the same command again: it goes on from there",
    )


def lifecycle_of(recipe: LifecycleConfig) -> str:
    """By what runs of one lifecycle know each other."""
    return digest(recipe.model_dump(mode="json", include=MAKING))


def accounts(storage: Storage, name: str) -> Iterator[Account]:
    """All that is on record of that name, the newest first.

    Raises:
        InputError: an account is damaged.
    """
    for key in sorted(storage.list(f"spending/{name}"), reverse=True):
        if (blob := storage.read(key)) is None:
            continue
        try:
            yield Account.model_validate_json(blob.content)
        except ValidationError:
            found = "cannot be read (damaged, or of another version of serinus)"
            raise InputError(
                f"{storage.uri}/{key}", found, "restore the file, or remove it to begin at nothing"
            ) from None


def opened(storage: Storage, recipe: LifecycleConfig, now: datetime) -> Account:
    """The account of this lifecycle that has no verdict yet, else a new one, which is not written yet."""
    wanted = lifecycle_of(recipe)
    newest = next((one for one in accounts(storage, recipe.name) if one.recipe == wanted), None)
    return newest if newest and newest.gate is None else Account(name=recipe.name, recipe=wanted, began_at=now)


def of_verdict(storage: Storage, name: str, gate: str) -> Account | None:
    """What was spent until that verdict. Runs that came to it again, and found all made, have later accounts."""
    found = [one for one in accounts(storage, name) if one.gate == gate]
    return found[-1] if found else None


def write(storage: Storage, account: Account) -> None:
    storage.write(account.key, account.model_dump_json(indent=1).encode())
