"""All models of recipes, artifacts and requests. Each is built when it is first needed, so a mistake in one would show late."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from cluster.config import StrictModel

ROOT = Path(__file__).parents[2]


def below(model: type[StrictModel]) -> Iterator[type[StrictModel]]:
    for one in model.__subclasses__():
        yield one
        yield from below(one)


def test_every_model_can_be_built() -> None:
    files = [file for package in ("cluster", "pipelines", "services") for file in (ROOT / package).rglob("*.py")]
    for file in files:
        if "StrictModel" in file.read_text():
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    importlib.import_module("serinus_recipe")
    models = [model for model in below(StrictModel) if not model.__module__.startswith("tests")]
    assert len(models) > 150
    for model in models:
        model.model_rebuild()
        assert model.__pydantic_complete__, model
