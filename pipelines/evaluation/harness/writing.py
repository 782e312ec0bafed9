"""How the model writes for a task's YAML, and how its answer is read: `generation_kwargs`, `filter_list` and `metric_list`."""

from __future__ import annotations

import re
from typing import Any

from cluster.errors import InputError
from pipelines.evaluation.harness.task_file import Asked, named, unfit
from pipelines.evaluation.metrics.exact import Extract, Lookup, Reading, Step

MAX_TOKENS = 256
"""What the harness takes where nothing is said."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of one thing, the first of which counts."""
WITHOUT_SAMPLING = {"num_beams": 1, "top_p": None, "top_k": None}
"""What changes nothing of the likeliest text: a value, or any."""
OF_METRIC = frozenset({"ignore_case", "ignore_punctuation", "ignore_numbers"})
NOTHING = "[invalid]"
"""What the harness's filter puts where its expression matches nothing."""
SIMPLE: dict[str, Step] = {"remove_whitespace": "strip", "lowercase": "lower", "uppercase": "upper"}


def until(path: str, asked: Asked) -> tuple[str, ...]:
    """Where the text ends."""
    between = asked.get("fewshot_delimiter", "\n\n")
    given = _generation(path, asked).get("until", between) or []
    stops = given if isinstance(given, list) else [given]
    if odd := [one for one in stops if not isinstance(one, str)]:
        raise InputError(path, f"generation_kwargs.until has {odd[0]!r}, no text", "put it in quotes")
    return tuple(stop for stop in stops if stop)


def max_tokens(path: str, asked: Asked) -> int:
    said = _generation(path, asked)
    found = next((said[name] for name in LENGTHS if said.get(name) is not None), MAX_TOKENS)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InputError(path, f"generation_kwargs asks for {found!r} tokens", "write a number from 1 on")
    return found


def compared(path: str, asked: Asked) -> Reading:
    """What does not count where answers are compared, as the metric exact_match has it."""
    metrics = asked.get("metric_list")
    if metrics is None:
        return Reading(())
    if not isinstance(metrics, list) or not all(isinstance(one, dict) for one in metrics):
        raise InputError(path, "metric_list is no list of metrics", "write it as the harness has it")
    metric = next((one for one in metrics if one.get("metric") == "exact_match"), None)
    if metric is None:
        others = ", ".join(str(one.get("metric")) for one in metrics)[:200]
        found = f"is scored by {others}, not by exact_match"
        raise InputError(
            path, found, "write kind: generation (chrF, BLEU, ROUGE) or kind: qa (F1), or name exact_match"
        )
    return _compared(path, metric)


def filtered(path: str, asked: Asked, name: str | None) -> tuple[Step, ...]:
    """What is done with a text before it is compared: by the filter of that name, or the first."""
    filters = asked.get("filter_list") or []
    if not isinstance(filters, list) or not all(isinstance(one, dict) and one.get("filter") for one in filters):
        raise InputError(path, "filter_list is no list of filters", "write it as the harness has it")
    names = [str(one.get("name")) for one in filters]
    if name is not None and name not in names:
        found = f"has no filter {name!r} in its filter_list ({', '.join(names) or 'it has none'})"
        raise InputError(path, found, "correct `filter:` of the evaluation task")
    if not filters:
        return ()
    chosen = filters[names.index(name) if name else 0]
    parts = chosen["filter"] if isinstance(chosen["filter"], list) else [chosen["filter"]]
    where = f"{path}: filter {chosen.get('name')}"
    if called := next(named(parts), None):
        raise unfit(where, f"calls Python of the harness's (!function {called.name}); name another by `filter:`")
    return _steps(where, parts)


def _steps(where: str, parts: list[Any]) -> tuple[Step, ...]:
    functions = [part.get("function") if isinstance(part, dict) else part for part in parts]
    if functions[-1] != "take_first" or "take_first" in functions[:-1]:
        raise unfit(where, f"is {', '.join(map(str, functions))}: only filters that end in take_first are read")
    return tuple(_step(where, part) for part in parts[:-1])


def _step(where: str, part: Any) -> Step:
    function = part.get("function") if isinstance(part, dict) else part
    match function:
        case "regex":
            return _extract(where, {name: value for name, value in part.items() if name != "function"})
        case "map":
            return _lookup(where, part)
        case str() if function in SIMPLE:
            return SIMPLE[function]
    raise unfit(where, f"has the function {function}, which is not done here; name another filter by `filter:`")


def _extract(where: str, said: dict[str, Any]) -> Extract:
    # Without a pattern the harness's own: GSM8K's.
    pattern, which = said.pop("regex_pattern", r"#### (\-?[0-9\.\,]+)"), said.pop("group_select", 0)
    otherwise = said.pop("fallback", NOTHING)
    if said:
        raise unfit(where, f"gives its regex `{next(iter(said))}`, which is not known")
    if not isinstance(which, int) or isinstance(which, bool) or not isinstance(otherwise, str):
        raise InputError(where, "group_select is no number, or fallback no text", "write them as the harness has them")
    return Extract(checked(where, "regex_pattern", pattern), which, otherwise)


def _lookup(where: str, part: dict[str, Any]) -> Lookup:
    table, otherwise = part.get("mapping_dict") or {}, part.get("default_value")
    texts = isinstance(table, dict) and all(isinstance(text, str) for pair in table.items() for text in pair)
    if not texts or not isinstance(otherwise, str | None):
        raise unfit(where, "maps to what is no text")
    return Lookup(tuple(table.items()), otherwise)


def _compared(path: str, metric: dict[str, Any]) -> Reading:
    where = f"{path}: metric_list, exact_match"
    said = {name: value for name, value in metric.items() if name not in ("metric", "higher_is_better", "hf_evaluate")}
    if said.pop("aggregation", "mean") != "mean":
        raise unfit(where, "is aggregated by something other than the mean")
    ignored = said.pop("regexes_to_ignore", None) or []
    if unknown := sorted(str(name) for name in said.keys() - OF_METRIC):
        raise unfit(where, f"has `{unknown[0]}`, which is not known")
    patterns = ignored if isinstance(ignored, list) else [ignored]
    ignore = tuple(checked(where, "regexes_to_ignore", pattern) for pattern in patterns)
    return Reading((), ignore, **{name: bool(value) for name, value in said.items()})


def checked(where: str, field: str, pattern: Any) -> str:
    """A regular expression.

    Raises:
        InputError: it is none.
    """
    try:
        re.compile(pattern if isinstance(pattern, str) else "(")
    except re.error as error:
        raise InputError(where, f"`{field}` is no regular expression: {error}", "mend it") from None
    return str(pattern)


def _generation(path: str, asked: Asked) -> dict[str, Any]:
    """`generation_kwargs`, where they ask for the likeliest text."""
    said = asked.get("generation_kwargs") or {}
    if not isinstance(said, dict):
        raise InputError(path, "generation_kwargs is no mapping", "write it as the harness has it")
    hot = said.get("do_sample") is None and _number(path, said.get("temperature")) > 0
    if said.get("do_sample") or hot:
        remedy = "write a YAML that includes this one and gives generation_kwargs anew, with do_sample: false"
        raise InputError(path, "asks for samples (generation_kwargs: do_sample, temperature)", remedy)
    for name, value in said.items():
        if name in ("until", "do_sample", "temperature", *LENGTHS):
            continue
        if name not in WITHOUT_SAMPLING or WITHOUT_SAMPLING[name] not in (None, value):
            raise unfit(path, f"has generation_kwargs `{name}: {str(value)[:50]}`, which is not done here")
    return said


def _number(path: str, value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        raise InputError(path, f"generation_kwargs.temperature is {value!r}", "write a number") from None
