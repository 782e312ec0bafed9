"""The budget of the data as a user meets it: the same command once more, and it is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import serinus
from pipelines.training.budget import KEY, Spendings

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def recipe(folder: Path, model: Path, **train: Any) -> Path:
    """Three steps on CPython's documentation topics, with nearly the whole budget."""
    from pydoc_data.topics import topics

    documents = folder / "topics.jsonl"
    documents.write_text("".join(json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)))
    asked = {
        "name": "private",
        "storage": "store",
        "data": {
            "sources": [{"path": str(documents)}],
            "filters": {"languages": ["en"], "min_alphabetic_word_fraction": 0.5},
        },
        "model": {"source": str(model)},
        "train": {
            "gpus_per_worker": 0, "num_workers": 1, "zero": {"stage": 1}, "precision": "float32", "num_steps": 3, "warmup_steps": 1,
            "sequence_length": 32, "sequences_per_worker": 2, "privacy": {"target_epsilon": 2.9, "delta": 1e-5}, **train,
        },
        "evaluate": {"tasks": [{"name": "perplexity", "kind": "perplexity"}]},
    }  # fmt: skip
    path = folder / "private.yaml"
    path.write_text(yaml.safe_dump(asked))
    return path


def test_a_second_run_over_the_budget_is_refused_by_the_command(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(**train: Any) -> tuple[int, str]:
        monkeypatch.setattr(
            sys, "argv", ["serinus", "run", str(recipe(tmp_path, tiny_model, **train)), "--until", "train"]
        )
        with pytest.raises(SystemExit) as ended:
            serinus.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    store = tmp_path / "store"
    code, said = run()
    assert code == 0, said
    (spent,) = Spendings.model_validate_json((store / KEY).read_text()).spendings
    assert 2.8 < spent.epsilon <= 2.9
    (made,) = store.glob("artifacts/checkpoint/*/manifest.json")
    told = json.loads(made.read_text())["ledger"]["privacy"]
    assert (told["epsilon"], told["epsilon_of_data"], told["accountant"]) == (spent.epsilon, spent.epsilon, "prv")
    before = (store / KEY).read_bytes()

    assert run()[0] == 0, "the same run again is found, and spends nothing"
    for other in ({"seed": 1}, {"num_steps": 4}, {"privacy": {"target_epsilon": 0.5, "budget": {"epsilon": 9}}}):
        code, said = run(**other)
        assert code == 2, said
        assert "train.privacy.budget: this run spends epsilon" in said
        assert f"1 run(s) on the same data have spent {spent.epsilon:.3g} at 1e-05, of 3 at 1e-05" in " ".join(
            said.split()
        )
        assert "Traceback" not in said
    assert (store / KEY).read_bytes() == before
    assert [made] == list(store.glob("artifacts/checkpoint/*/manifest.json"))

    code, said = run(privacy={"target_epsilon": 0.05, "delta": 1e-9, "accountant": "rdp"})
    assert code == 2
    assert "1e-05" in said, "the deltas add up as well: 1e-5 is spent"
