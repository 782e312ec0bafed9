"""Templates of a task's YAML (Jinja), filled with a row in a sandbox that ends."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from cluster.errors import InputError

Row = dict[str, Any]
MAX_STEPS = 100_000
"""Turns of all loops and calls of macros in one text."""
MAX_LENGTH = 10_000_000
"""Of what an operator makes."""
MAX_BITS = 10_000
FAILURES = (
    TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError, SyntaxError,
    re.error,
)  # fmt: skip
"""What a template, and the Python that Jinja makes of it, may end with."""


def filled(where: str, field: str, template: Any, row: Row) -> str:
    """The template with the row's columns.

    Raises:
        InputError: it does not fit them, or does not end.
    """
    if not isinstance(template, str):
        raise InputError(where, f"`{field}` is no text", f"give `{field}` as a column's name or a template")
    try:
        made = _made(template)
        _environment().left = MAX_STEPS
        return made.render(row)
    except FAILURES as error:
        columns = ", ".join(sorted(row))
        found = f"`{field}` does not fit: {' '.join(str(error).split())[:300]} (columns: {columns[:300]})"
        raise InputError(where, found, f"mend `{field}`") from None


@cache
def _made(template: str) -> Template:
    return _environment().from_string(template)


@cache
def _environment() -> _Environment:
    made = _Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters["regex_replace"] = _regex_replace
    del made.globals["lipsum"]  # as long as it is told to be
    return made


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    """The harness's own filter."""
    return re.sub(pattern, repl, text, count=count)


class _Environment(SandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "+"})
    left = MAX_STEPS

    def step(self) -> str:
        """Counted in every turn of a loop."""
        self.left -= 1
        if self.left < 0:
            raise SecurityError(f"more than {MAX_STEPS:,} steps")
        return ""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > (MAX_BITS if operator == "**" else MAX_LENGTH):
            raise SecurityError(f"`{operator}` makes something too large")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        repeated: list[nodes.For | nodes.Macro | nodes.CallBlock] = [
            *tree.find_all(nodes.For),
            *tree.find_all(nodes.Macro),
        ]
        repeated += tree.find_all(nodes.CallBlock)
        for loop in repeated:
            count = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None, lineno=loop.lineno)
            loop.body.insert(0, nodes.Output([count], lineno=loop.lineno))
        return tree


def _size(operator: str, left: Any, right: Any) -> int:
    """Of what an operator makes: its length, or of a power its bits."""
    if operator == "**":
        return left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
    if isinstance(left, int) and isinstance(right, str | list | tuple):
        left, right = right, left
    if not isinstance(left, str | list | tuple):
        return 0
    if operator == "*":
        return len(left) * right if isinstance(right, int) else 0
    return len(left) + (len(right) if isinstance(right, str | list | tuple) else 0)
