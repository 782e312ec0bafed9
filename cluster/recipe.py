"""What every command needs of a recipe, whose other parts are defined in packages above this one: `name` and `storage`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ConfigDict, Field, field_validator

from cluster import config
from cluster.config import StrictModel, load_yaml
from cluster.errors import ConfigError
from cluster.storage_config import StorageConfig


class NamedRecipe(StrictModel):
    """A recipe, as far as the record of what was made needs it. The rest is not looked at, so that
    the record stays readable when a stage's settings are not."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=40)
    """Public name of the model: lower-case letters, digits, dots and hyphens."""
    storage: StorageConfig
    """Folder or s3://bucket/folder that keeps every artifact, or a mapping of StorageConfig's fields."""

    @field_validator("storage", mode="before")
    @classmethod
    def _storage_can_be_opened(cls, given: object) -> object:
        if isinstance(given, str) and not given.strip():
            raise ValueError("is empty: use a folder or s3://bucket/folder")
        if isinstance(given, str) and "://" in given and not given.startswith(("s3://", "file://")):
            raise ValueError("unknown storage scheme: use a folder or s3://bucket/folder")
        return given


def read_named(given: Path | None) -> NamedRecipe:
    """None: the recipe of the last `serinus deploy`."""
    return load_yaml(deployed() if given is None else given, NamedRecipe)


def deployed() -> Path:
    """The recipe of the last `serinus deploy`.

    Raises:
        ConfigError: there was none on this machine.
    """
    path = config.home() / "deployed.json"
    try:
        return Path(json.loads(path.read_text())["recipe"])
    except FileNotFoundError:
        raise ConfigError("--recipe", "no recipe given and none deployed yet", "add --recipe RECIPE") from None
    except (OSError, ValueError, TypeError, KeyError):
        found = f"none given, and {path} does not say which one was deployed last"
        raise ConfigError("--recipe", found, "add --recipe RECIPE") from None


def remember(recipe: Path) -> None:
    """That it was deployed."""
    path = config.home() / "deployed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"recipe": str(recipe.resolve())}))
