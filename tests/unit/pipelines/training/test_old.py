"""Old documents, by the field that names them."""

from __future__ import annotations

import pytest

from cluster.artifacts import Dataset, save
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.training.old import old_dataset


@pytest.mark.parametrize("field", ["replay", "consolidation"])
def test_a_dataset_that_is_not_there_is_told_at_its_field(field: str, storage: LocalStorage) -> None:
    made = save(storage, Dataset(key="d" * 16))
    assert old_dataset(made.key, field, storage) == made
    with pytest.raises(InputError, match=f"train.{field}.dataset: there is no dataset {'e' * 16} in {storage.uri}"):
        old_dataset("e" * 16, field, storage)
