"""Exit codes and messages of the exception tree."""

from __future__ import annotations

import pickle

import pytest

from cluster import errors


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.ConfigError, 2),
        (errors.InputError, 2),
        (errors.ResourceError, 2),
        (errors.ClusterError, 2),
    ],
)
def test_what_a_person_can_mend_says_where_what_and_how(kind: type[errors.UserError], exit_code: int) -> None:
    error = kind("recipe.yaml:3: train.steps", "is negative", "give a positive number")
    assert error.exit_code == exit_code
    assert str(error) == "recipe.yaml:3: train.steps: is negative\n  -> give a positive number"


@pytest.mark.parametrize(("kind", "exit_code"), [(errors.GateFailed, 1), (errors.StageFailed, 3), (errors.Conflict, 3)])
def test_the_others_have_exit_codes_of_their_own(kind: type[errors.SerinusError], exit_code: int) -> None:
    assert kind("x").exit_code == exit_code
    assert not isinstance(kind("x"), errors.UserError)


def test_errors_survive_the_way_back_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(errors.InputError("a.jsonl", "is empty", "give documents")))
    assert isinstance(error, errors.InputError)
    assert (error.where, error.found, error.remedy) == ("a.jsonl", "is empty", "give documents")
