"""What answers are worth, which prompts there are, and which runs of grpo are refused before they start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError, InputError
from pipelines.config import GrpoConfig, TrainConfig
from pipelines.training.prompts import Prompts, check_prompts, read_prompts
from pipelines.training.rewards import Rewards, check_function, is_right, read_sources, recorded


def method(*rewards: dict[str, Any], **fields: Any) -> GrpoConfig:
    given = rewards or ({"name": "right", "kind": "answer"},)
    return GrpoConfig.model_validate({"path": "p.jsonl", "rewards": given, **fields})


def said(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("It is 42.", "42", True),
        ("6 times 7 is 42", 42, True),
        ("42, or is it 43?", "42", False),
        ("so it costs $1,234.50", "1234.5", True),
        ("1,234", 1234, True),
        ("-7", "-7", True),
        ("3-7", "-7", False),
        ("3-7", "7", True),
        ("thinking...42", "42", True),
        ("about 1e5 of them", "100000", True),
        ("it is \u22125", -5, True),
        ("a loss of -$5", -5, True),
        ("the total is .5", "0.50", True),
        ("nothing", "42", False),
        ("", "42", False),
        ("the answer is 18", "He sells 9 a day.\n#### 18", True),
        ("He sells 9", "He sells 9 a day.\n#### 18", False),
        ("I think:\n Paris \n", "paris", True),
        ("Paris is it", "Paris", False),
        ("inf", "inf", True),
        ("", "Paris", False),
    ],
)
def test_an_answer_is_right_by_its_last_number_or_line(answer: str, right: Any, expected: bool) -> None:
    assert is_right(answer, right) is expected


def test_rewards_are_called_as_trl_calls_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def mine(prompts, completions, level, **rest):\n    return [None if n == 0 else n for n in level]\n"
    )
    own = {"name": "own", "kind": "function", "file": str(file), "function": "mine", "weight": 0.5}
    config = method({"name": "right", "kind": "answer"}, {"name": "short", "kind": "pattern", "pattern": r"^\d+$"}, own)
    rewards = Rewards(config, read_sources(config))
    given = {
        "prompts": ["a", "b"],
        "completion_ids": [[1], [2]],
        "answer": ["1", "2"],
        "level": [0, 3],
        "log_metric": None,
    }
    assert [one(completions=said("1", "it is 2"), **given) for one in rewards.functions] == [[1, 1], [1, 0], [None, 3]]
    assert [one.__name__ for one in rewards.functions] == ["right", "short", "own"]
    assert rewards.weights == [1.0, 1.0, 0.5]
    assert rewards.failed is None
    before = recorded(config)
    assert "file" not in before[2]
    file.write_text(file.read_text() + "# changed\n")
    assert recorded(config)[:2] == before[:2]
    assert recorded(config)[2] != before[2]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return [1, 2, 3]", "returned 3 rewards for 2 completions"),
        ("return 'good'", "returned a str for 2 completions"),
        ("return ['a', 1]", "returned a str as a reward"),
        ("return [float('inf'), 1]", "returned inf as a reward"),
        ("return [float('nan'), 1]", "returned nan as a reward"),
        ("return [1e39, 1]", "returned 1e+39 as a reward"),
        ("raise SystemExit('bye')", "f failed in line 2 (SystemExit: bye)"),
        ("return {1: 2}", "returned a dict for 2 completions"),
        ("return 1 / 0", "f failed in line 2 (ZeroDivisionError: division by zero)"),
    ],
)
def test_what_a_function_does_wrong_is_kept_for_all_ranks_to_hear(tmp_path: Path, body: str, found: str) -> None:
    file = tmp_path / "f.py"
    file.write_text(f"def f(completions, **rest):\n    {body}\n")
    config = method({"name": "own", "kind": "function", "file": str(file), "function": "f"})
    rewards = Rewards(config, read_sources(config))
    assert rewards.functions[0](completions=said("a", "b")) == [None, None]
    assert rewards.failed is not None
    assert rewards.failed.where == "train.method.rewards: own"
    assert found in rewards.failed.found


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\ndef f(completions, **rest):\n    return np.array([1, 0.5], dtype=np.float32)\n",
        "import numpy as np\ndef f(completions, **rest):\n    return [np.int64(1), np.float32(0.5)]\n",
        "import torch\ndef f(completions, **rest):\n    return [torch.tensor(1.0), torch.tensor(0.5)]\n",
        "async def f(completions, **rest):\n    return [1, 0.5]\n",
    ],
)
def test_what_trl_takes_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.py").write_text(text)
    config = method({"name": "own", "kind": "function", "file": str(tmp_path / "f.py"), "function": "f"})
    rewards = Rewards(config, read_sources(config))
    assert rewards.functions[0](completions=said("a", "b")) == [1.0, 0.5]
    assert rewards.failed is None


def test_an_error_that_cannot_be_told_is_one_all_the_same(tmp_path: Path) -> None:
    text = (
        "class E(Exception):\n    def __str__(self):\n        return 1 / 0\ndef f(completions, **rest):\n    raise E\n"
    )
    (tmp_path / "f.py").write_text(text)
    config = method({"name": "own", "kind": "function", "file": str(tmp_path / "f.py"), "function": "f"})
    rewards = Rewards(config, read_sources(config))
    rewards.functions[0](completions=said("a"))
    assert rewards.failed is not None
    assert rewards.failed.found == "f failed in line 5 (E)"


def test_a_function_that_is_not_there_is_told_with_its_file(tmp_path: Path) -> None:
    def own(file: Path) -> GrpoConfig:
        return method({"name": "own", "kind": "function", "file": str(file), "function": "f"})

    with pytest.raises(ConfigError, match="no such file"):
        read_sources(own(tmp_path / "none.py"))
    (tmp_path / "f.py").write_text("g = 1\n")
    config = own(tmp_path / "f.py")
    with pytest.raises(ConfigError, match="has no function f"):
        Rewards(config, read_sources(config))
    with pytest.raises(ConfigError, match="is no Python"):
        check_function(config.rewards[0], "def f(:\n")  # type: ignore[arg-type]


def prompts(*lines: Any) -> list[dict[str, Any]]:
    return [row for _, row in read_prompts("p.jsonl", "\n".join(json.dumps(line) for line in lines).encode())]


def test_prompts_are_turns_of_the_user_s_with_what_rewards_take() -> None:
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2"}]
    assert prompts({"prompt": "1 + 1", "answer": 2}, {"prompt": talk, "answer": 4}) == [
        {"prompt": [{"role": "user", "content": "1 + 1"}], "answer": 2},
        {"prompt": talk, "answer": 4},
    ]


@pytest.mark.parametrize(
    ("lines", "where", "found"),
    [
        ([{"text": "a"}], "p.jsonl:1", "has text"),
        ([{"prompt": " "}], "p.jsonl:1", "does not fit train.method grpo"),
        ([{"prompt": []}], "p.jsonl:1", "does not fit"),
        ([{"prompt": [{"role": "assistant", "content": "a"}]}], "p.jsonl:1", "does not fit"),
        ([{"prompt": "a", "completions": 1}], "p.jsonl:1", "`completions`"),
        ([{"prompt": "a", "answer": 1}, {"prompt": "b"}], "p.jsonl:2", "the first line answer, prompt"),
        ([["prompt"]], "p.jsonl:1", "has a list"),
        ([], "p.jsonl", "holds no examples"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(lines: list[Any], where: str, found: str) -> None:
    with pytest.raises(InputError) as told:
        prompts(*lines)
    assert told.value.where == where
    assert found in told.value.found


@pytest.mark.parametrize(
    ("row", "length", "found"),
    [
        (
            {"answer": "1"},
            90,
            "of which 20 are the answer's, but 1 of 1 prompts in p.jsonl have more than 80 (the longest 90)",
        ),
        ({"other": "1"}, 5, "the lines of p.jsonl have no field `answer`"),
        ({"answer": [1]}, 5, "`answer` of 1 prompts in p.jsonl is no text and no number (the first: prompt 1)"),
        ({"answer": True}, 5, "is no text and no number"),
    ],
)
def test_prompts_that_rewards_or_answers_cannot_do_with_are_refused(
    row: dict[str, Any], length: int, found: str
) -> None:
    given = Prompts([{"prompt": [], **row}], [length])
    with pytest.raises(ConfigError) as told:
        check_prompts(given, method(max_completion_tokens=20), 100)
    assert found in told.value.found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"sequences_per_worker": 3}, "a step has 6 answers"),
        ({"sequence_length": 256}, "max_completion_tokens (256) must be below sequence_length (256)"),
        (
            {"privacy": {"target_epsilon": 3}, "zero": {"stage": 1}},
            "privacy does not go with grpo",
        ),
        ({"parallel": {"tensor": 2}}, "parallel does not go with grpo"),
        ({"quantization_aware": {"scheme": "w4a16", "group_size": 32}}, "quantization_aware does not go with grpo"),
        ({"replay": {"dataset": "a" * 16, "fraction": 0.1}}, "replay is for causal"),
        ({"method": {"rewards": []}}, "at least 1 item"),
        ({"method": {"num_generations": 1}}, "greater than or equal to 2"),
        ({"method": {"rewards": [{"name": "a", "kind": "pattern", "pattern": "("}]}}, "is no regular expression"),
        ({"method": {"rewards": [{"name": "a", "kind": "answer"}] * 2}}, "names of rewards must differ, repeated: a"),
    ],
)
def test_runs_that_cannot_be_are_refused(fields: dict[str, Any], found: str) -> None:
    given = {
        "kind": "grpo",
        "path": "p.jsonl",
        "rewards": [{"name": "right", "kind": "answer"}],
        **fields.get("method", {}),
    }
    with pytest.raises(ValidationError) as told:
        TrainConfig.model_validate({"num_workers": 2, "sequences_per_worker": 8, **fields, "method": given})
    assert found in str(told.value)


def test_spikes_pass_by_default_for_the_loss_says_little() -> None:
    assert TrainConfig().spike_deviations == 10
    assert TrainConfig.model_validate({"method": method().model_dump()}).spike_deviations is None
    assert TrainConfig(method=method()).spike_deviations is None
