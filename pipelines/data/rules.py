"""Rewriting rules: named, ordered, applied to a whole column of texts at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cluster.errors import ConfigError, StageFailed
from pipelines.config import RuleConfig
from pipelines.data.repair import repair_column

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 5
"""Part of the rule set's digest: raise it when a built-in rule, protection, a filter or the deduplication changes its
meaning, or what a batch's hash is taken of."""

REFERENCE = r"\[(?:[1-9]\d{0,2}(?:\s?[,;–-]\s?[1-9]\d{0,2})*|citation needed|note \d{1,3})\]"

PATTERNS: dict[str, tuple[tuple[str, str], ...]] = {
    # What ends a sentence after the address stays: "(see https://x.org/a)." -> "(see )."
    "strip_urls": ((r"(?i)\b(?:https?://|ftp://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]}']", ""),),
    # Only behind a word or the end of a clause: "known [1, 2]." goes; references listed at the start of a line stay,
    # and most of what is code: "x = [1, 2]", "(a, [1])", "a[0]".
    "strip_bracketed_references": (
        (rf"([\p{{L}}\p{{N}}.;:!?)\"'’”%])(?:[ \t]*{REFERENCE})+|(,)(?:{REFERENCE})+", r"\1\2"),
    ),
}
"""Built-in rules that are RE2 replacements, in order."""

REPAIR, WHITE_SPACE, C4_LINES = "repair_unicode", "collapse_white_space", "c4_lines"
BUILT_IN = (REPAIR, *PATTERNS, WHITE_SPACE, C4_LINES)


@dataclass(frozen=True)
class Rule:
    name: str
    apply: Callable[[pa.ChunkedArray | pa.Array], pa.ChunkedArray | pa.Array]


def compile_rules(configs: Sequence[RuleConfig], functions: Mapping[str, str] | None = None) -> tuple[Rule, ...]:
    """The rules in their order.

    Args:
        functions: what `read_functions` gave; None reads the files here.

    Raises:
        ConfigError: a name that is no built-in and has no pattern, a pattern or replacement that RE2 refuses, or a function that
            is not there.
    """
    functions = read_functions(configs) if functions is None else functions
    return tuple(_compile(config, functions) for config in configs)


def read_functions(configs: Sequence[RuleConfig]) -> dict[str, str]:
    """The source of each rule that is a function, by the rule's name: workers need not have the file.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {config.name: _source(config.name, config.file) for config in configs if config.file is not None}


def _source(name: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"data.rules: {name}", f"{file} cannot be read ({why})", "name a Python file") from None


def recorded(config: RuleConfig) -> dict[str, Any]:
    """The rule as what decides over the result: a function by the hash of its file."""
    plain = config.model_dump(mode="json", exclude={"file", "function"})
    if config.file is None:
        return plain
    sha256 = hashlib.sha256(_source(config.name, config.file).encode()).hexdigest()
    return {**plain, "function": config.function, "file": Path(config.file).name, "sha256": sha256}


def _compile(config: RuleConfig, functions: Mapping[str, str]) -> Rule:
    if config.pattern is None and config.file is None:
        return _built_in(config.name)
    if config.name in BUILT_IN:
        where, what = f"data.rules: {config.name}", "a function" if config.file else "a pattern"
        raise ConfigError(where, f"a built-in rule with {what}", "give your own rule another name")
    if config.pattern is None:
        return Rule(config.name, _calling(config, functions[config.name]))
    rule = Rule(config.name, _replacing(((config.pattern, config.replacement),)))
    _try_out(rule)
    return rule


def _calling(config: RuleConfig, source: str) -> Callable[[pa.Array], pa.Array]:
    where, name = f"data.rules: {config.name}", str(config.function)
    module = ModuleType(f"serinus_rule_{config.name}")
    try:
        exec(compile(source, str(config.file), "exec"), module.__dict__)  # noqa: S102  # the user's own, named in the recipe
    except Exception as error:
        found = f"{config.file} cannot be run ({type(error).__name__}: {error})"
        raise ConfigError(where, found, "mend the file") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(where, f"{config.file} has no function {name}", "name one that takes a text and returns one")

    def apply(texts: pa.Array) -> pa.Array:
        import pyarrow as pa

        return pa.array([_called(where, function, text) for text in texts.to_pylist()], pa.large_string())

    return apply


def _called(where: str, function: Callable[[str], object], text: str) -> str:
    try:
        found = function(text)
        if not isinstance(found, str):
            raise TypeError(f"it returned {type(found).__name__}, not a text")
        found.encode()  # half of a surrogate pair is no text
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise StageFailed(
            f"{where}: the function failed on a text of {len(text)} characters ({said}): mend it"
        ) from None
    return found


def _built_in(name: str) -> Rule:
    if name == REPAIR:
        return Rule(name, repair_column)
    if name == WHITE_SPACE:
        return Rule(name, _collapse_white_space)
    if name == C4_LINES:
        return Rule(name, _keep_c4_lines)
    return Rule(name, _replacing_where_hinted(name))


def _replacing_where_hinted(name: str) -> Callable[[pa.Array], pa.Array]:
    """RE2 goes through the texts alone that have what every match begins with: few, and found ten times faster."""
    replace = _replacing(PATTERNS[name])

    def apply(texts: pa.Array) -> pa.Array:
        import pyarrow.compute as pc

        from pipelines.data.kernels import spacing
        from pipelines.data.kernels.characters import buffers

        bit = spacing.ADDRESS if name == "strip_urls" else spacing.REFERENCE
        hinted = spacing.hints(buffers(texts)) & bit > 0
        return pc.replace_with_mask(texts, hinted, replace(texts.filter(hinted))) if hinted.any() else texts

    return apply


def _collapse_white_space(texts: pa.Array) -> pa.Array:
    from pipelines.data.kernels.characters import array, buffers
    from pipelines.data.kernels.spacing import collapsed

    return array(collapsed(buffers(texts)))


def _replacing(replacements: tuple[tuple[str, str], ...]) -> Callable[[pa.Array], pa.Array]:
    def apply(texts: pa.Array) -> pa.Array:
        import pyarrow.compute as pc

        for pattern, replacement in replacements:
            texts = pc.replace_substring_regex(texts, pattern=pattern, replacement=replacement)
        return texts

    return apply


def _try_out(rule: Rule) -> None:
    import pyarrow as pa

    try:
        rule.apply(pa.array(["text"], pa.large_string()))  # RE2 compiles nothing for an empty column
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"data.rules: {rule.name}",
            str(error)[:1].lower() + str(error)[1:],
            "mend the expression: RE2 syntax, no look-around, no back-references; \\1 in the replacement is a group",
        ) from None


def _keep_c4_lines(texts: pa.Array) -> pa.Array:
    from pipelines.data.kernels.c4 import kept_lines
    from pipelines.data.kernels.characters import array, buffers

    return array(kept_lines(buffers(texts)))
