"""What answers are worth: functions as TRL calls them, f(prompts=, completions=, completion_ids=, **columns) -> list of rewards."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any

from cluster.errors import ConfigError, InputError
from pipelines.config import AnswerReward, FunctionReward, GrpoConfig, PatternReward, Reward
from pipelines.own_function import load_function
from pipelines.training.method_file import read_file

Completion = list[dict[str, str]]
"""An answer as TRL gives it: the assistant's one message."""
RewardFunction = Callable[..., list[float | None]]

NUMBER = re.compile(r"(?<!\d)(?<!\d\.)[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\d.])[-+]?\.\d+")
LARGEST = 3.4e38
"""Of float32, in which rewards are compared."""


def read_sources(method: GrpoConfig) -> dict[str, str]:
    """The source of each reward that is a function, by its name: workers need not have the file.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {one.name: _source(one) for one in method.rewards if isinstance(one, FunctionReward)}


def recorded(method: GrpoConfig) -> list[dict[str, Any]]:
    """The rewards as what decides over the model: a function by the hash of its file."""
    sources = {name: hashlib.sha256(source.encode()).hexdigest() for name, source in read_sources(method).items()}
    plain = [reward.model_dump(mode="json", exclude={"file"}) for reward in method.rewards]
    return [{**one, "sha256": sources[one["name"]]} if one["name"] in sources else one for one in plain]


def _source(reward: FunctionReward) -> str:
    try:
        return read_file(reward.file).decode("utf-8-sig")
    except InputError:
        found = "no such file"
    except UnicodeDecodeError:
        found = "is not UTF-8 text"
    raise ConfigError(_field(reward), f"{reward.file}: {found}", "name a Python file")


class RewardFailed(ConfigError):
    """A reward could not be given: of the user's function, or of what it returned."""


class Rewards:
    """The functions, and what went wrong in one of them: a rank that raised alone would leave the others waiting for it."""

    def __init__(self, method: GrpoConfig, sources: Mapping[str, str]) -> None:
        """Raises ConfigError: a function's file cannot be run, or has no such function."""
        self.failed: RewardFailed | None = None
        self.weights = [reward.weight for reward in method.rewards]
        self.functions = [self._guarded(reward, _function(reward, sources)) for reward in method.rewards]

    def _guarded(self, reward: Reward, function: RewardFunction) -> RewardFunction:
        def rewards(completions: list[Completion], **given: Any) -> list[float | None]:
            try:
                found = function(completions=completions, **given)
                if inspect.iscoroutine(found):  # TRL takes such functions as well
                    found = asyncio.run(found)
                return _checked(reward, found, len(completions))
            except RewardFailed as error:
                self.failed = error
            except (Exception, SystemExit) as error:
                self.failed = RewardFailed(_field(reward), _told(reward, error), "mend the function")
            return [None] * len(completions)

        rewards.__name__ = reward.name
        return rewards


def check_function(reward: FunctionReward, source: str) -> None:
    """Before anything starts; the file is compiled, not run.

    Raises:
        ConfigError: it is no Python.
    """
    try:
        compile(source, reward.file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(_field(reward), f"{reward.file} is no Python ({error})", "mend the file") from None


def _function(reward: Reward, sources: Mapping[str, str]) -> RewardFunction:
    match reward:
        case AnswerReward():
            return lambda completions, **columns: [
                float(is_right(_text(one), right))
                for one, right in zip(completions, columns[reward.field], strict=True)
            ]
        case PatternReward():
            pattern = re.compile(reward.pattern)
            return lambda completions, **_: [float(pattern.search(_text(one)) is not None) for one in completions]
        case FunctionReward():
            remedy = (
                "name one that takes prompts, completions, completion_ids and **columns, as TRL's reward functions do"
            )
            return load_function(sources[reward.name], reward.file, reward.function, _field(reward), remedy)


def _text(completion: Completion) -> str:
    return completion[-1]["content"]


def is_right(answer: str, right: str | float) -> bool:
    """Whether the last number in the answer is the right one; where that is no number, whether the last line is."""
    answer, wanted = _plain(answer), _plain(str(right)).rpartition("####")[2].strip()
    if (number := _number(wanted)) is None:
        lines = [line.strip() for line in answer.splitlines() if line.strip()]
        return bool(lines) and lines[-1].casefold() == wanted.casefold()
    found = NUMBER.findall(answer)
    return bool(found) and _number(found[-1]) == number


def _plain(text: str) -> str:
    """With the minus of keyboards, and without dollars."""
    return text.replace("\u2212", "-").replace("$", "")


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _checked(reward: Reward, found: Any, num: int) -> list[float | None]:
    found = found.tolist() if hasattr(found, "tolist") else found  # of numpy or torch
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != num:
        what = f"{len(found)} rewards" if isinstance(found, list | tuple) else f"a {type(found).__name__}"
        raise RewardFailed(_field(reward), f"returned {what} for {num} completions", "return a list with one for each")
    return [None if one is None else _finite(reward, one) for one in found]


def _finite(reward: Reward, one: Any) -> float:
    remedy = "return finite numbers, or None where there is none to give"
    if isinstance(one, str | bytes) or not hasattr(one, "__float__"):
        raise RewardFailed(_field(reward), f"returned a {type(one).__name__} as a reward", remedy)
    value = float(one)
    if not abs(value) < LARGEST:  # NaN is not below anything
        raise RewardFailed(_field(reward), f"returned {value} as a reward", remedy)
    return value


def _told(reward: Reward, error: BaseException) -> str:
    name = reward.function if isinstance(reward, FunctionReward) else reward.kind
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == getattr(reward, "file", "")
    ]
    where = f" in line {lines[-1]}" if lines else ""
    with suppress(Exception):  # an exception's own words may fail too
        return f"{name} failed{where} ({type(error).__name__}: {error})"
    return f"{name} failed{where} ({type(error).__name__})"


def _field(reward: Reward) -> str:
    return f"train.method.rewards: {reward.name}"
