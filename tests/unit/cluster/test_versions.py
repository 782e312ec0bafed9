from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cluster.artifacts import Annotations, save
from cluster.errors import InputError
from cluster.storage import LocalStorage
from cluster.versions import chosen, every


def made(storage: LocalStorage, key: str, day: int) -> Annotations:
    return save(storage, Annotations(key=key, made_at=datetime(2026, 1, day, tzinfo=UTC)))


def test_artifacts_of_a_kind_are_listed_from_the_oldest_and_found_by_their_beginning(storage: LocalStorage) -> None:
    first, second = made(storage, "bb1", 1), made(storage, "aa2", 2)
    storage.write("artifacts/annotations/cc3/manifest.json", b"{}x")
    storage.write("artifacts/annotations/bb1/more/manifest.json", b"not one")
    assert every(storage, Annotations) == ([first, second], ["cc3"])
    assert chosen(storage, Annotations, None, "serinus x") == second
    assert chosen(storage, Annotations, "bb", "serinus x") == chosen(storage, Annotations, first.digest, "") == first


@pytest.mark.parametrize(
    ("keys", "wanted", "told"),
    [
        ((), None, "annotations: there are none yet: begin: serinus x run"),
        (("a1",), "x", "annotations x: 0 of 1 fit: name one by its key: serinus x list"),
        (("a1", "a2"), "a", "annotations a: 2 of 2 fit: name one by its key: serinus x list"),
    ],
)
def test_what_does_not_fit_is_told(storage: LocalStorage, keys: tuple[str, ...], wanted: str | None, told: str) -> None:
    for day, key in enumerate(keys, 1):
        made(storage, key, day)
    with pytest.raises(InputError) as caught:
        chosen(storage, Annotations, wanted, "serinus x")
    assert f"{caught.value.where}: {caught.value.found}: {caught.value.remedy}" == told
