"""A recipe's name and storage, read without the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from cluster.recipe import read_named


def test_what_stages_are_set_to_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: small\nstorage: store\ntrain: {num_step: many}\nsomething: else\n")
    found = read_named(tmp_path / "recipe.yaml")
    assert (found.name, found.storage.uri) == ("small", str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: small\nstorge: store\n", "storage: required and not given\n  -> rename `storge:`"),
        ("name: small\n", "storage: required and not given\n  -> add `storage:`"),
        ("name: small\nstorage: gs://bucket\n", "recipe.yaml:2: storage: .*unknown storage scheme"),
        ("name: Small!\nstorage: store\n", "recipe.yaml:1: name: "),
        ("name: small\nname: large\nstorage: store\n", "given twice"),
    ],
)
def test_what_is_wrong_with_them_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_named(tmp_path / "recipe.yaml")
