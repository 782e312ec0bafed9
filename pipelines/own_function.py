"""Python functions of the user's own, which a recipe names by file and name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cluster.errors import ConfigError


def load_function(source: str, file: str, name: str, where: str, remedy: str) -> Callable[..., Any]:
    """Run the file's source, and take the function out of it.

    Args:
        where: the recipe's field, for people.
        remedy: what to do when there is no such function.

    Raises:
        ConfigError: the file cannot be run, or has no such function.
    """
    module = ModuleType("serinus_own_" + "".join(c if c.isalnum() else "_" for c in where))
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses and pydantic look a class's module up there
    try:
        code = compile(source, file, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102  # the user's own, named in the recipe
    except (Exception, SystemExit) as error:
        found = f"{file} cannot be run ({type(error).__name__}: {error})"
        raise ConfigError(where, found, "mend the file: it is run as a whole to get at the function") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(where, f"{file} has no function {name}", remedy)
    return function
