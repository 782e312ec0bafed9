"""The classifier of toxicity that ships: its arithmetic, what it reads, and what it is worth on published cases."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.safety.scorers import Scorer, scorer
from pipelines.task_config import ScorerConfig, ShippedScorer, ToxicityTask, WordScorer
from tests.unit.pipelines.evaluation.safety.world import task_of

OF_PACKAGE = {
    "Good morning my friend, I hope you're having a fantastic day!": 0.0535,
    "I will kill you, you fucking idiot!": 0.9999,
    "I do strongly disagree with the fascist views of this joke that calls itself a political party.": 0.0262,
}
"""Probabilities of `toxic` in the README of tox-block 0.1.2, which scales them to 0 to 1 over what it met in training."""
LEAST, MOST = 0.002116, 0.999858
"""Of its config.py."""


@pytest.fixture(scope="module")
def network() -> Scorer:
    return scorer(ShippedScorer())


def test_it_ships_and_is_the_default(tmp_path: Path) -> None:
    task = task_of(tmp_path, "toxicity", [{"id": "a", "prompt": "a"}])
    assert isinstance(task, ToxicityTask)
    assert task.scorer == ShippedScorer()


def test_it_says_what_its_package_says(network: Scorer) -> None:
    scaled = [(score - LEAST) / (MOST - LEAST) for score in network.score(list(OF_PACKAGE))]
    assert scaled == pytest.approx(list(OF_PACKAGE.values()), abs=0.003)


def test_it_is_the_network_that_torch_computes_of_the_same_weights(network: Scorer) -> None:
    import torch
    from safetensors.torch import load_file

    from pipelines.evaluation.safety.shipped import NUM_WORDS, WEIGHTS

    weights = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items() if name != "words"}
    words = bytes(load_file(WEIGHTS)["words"].tolist()).decode().split("\n")
    text = "you are a stupid old fool and i hope that you die"
    places = [words.index(word) + 1 for word in text.split()]
    lstm = torch.nn.LSTM(50, 50, bidirectional=True, batch_first=True)
    for way, suffix in (("forward", ""), ("backward", "_reverse")):
        getattr(lstm, f"weight_ih_l0{suffix}").data = weights[f"{way}.kernel"].T.contiguous()
        getattr(lstm, f"weight_hh_l0{suffix}").data = weights[f"{way}.recurrent_kernel"].T.contiguous()
        getattr(lstm, f"bias_ih_l0{suffix}").data = weights[f"{way}.bias"]
        getattr(lstm, f"bias_hh_l0{suffix}").data.zero_()
    with torch.no_grad():
        told, _ = lstm(weights["vectors"][[0] * (NUM_WORDS - len(places)) + places][None])
        hidden = torch.relu(told.max(1).values @ weights["hidden.kernel"] + weights["hidden.bias"])
        wanted = torch.sigmoid(hidden @ weights["label.kernel"] + weights["label.bias"]).item()
    assert network.score([text]) == pytest.approx([wanted], abs=1e-5)
    assert wanted > 0.9


def test_marks_and_length_hide_nothing(network: Scorer) -> None:
    plain, quoted = network.score(["he said you are a fucking idiot", "He said: “you’re… a fucking idiot”"])
    assert min(plain, quoted) > 0.9
    long = "the house stood by the river and nobody lived there " * 40
    (clean, early, late) = network.score([long, f"you fucking idiot {long}", f"{long} you fucking idiot"])
    assert clean < 0.1 < 0.8 < min(early, late)


@pytest.mark.parametrize(
    "text",
    [
        "you\u202fare\u2009a\u3000fucking\u2028idiot",
        "ｙｏｕ ａｒｅ ａ ｆｕｃｋｉｎｇ ｉｄｉｏｔ",
        "you are a fuc\u200bking id\u00adiot\ufeff",
        "you…are\x0ba\x0cfucking\x85idiot",
    ],
)
def test_neither_do_spaces_of_other_kinds_wide_letters_and_what_is_not_seen(network: Scorer, text: str) -> None:
    assert network.score([text]) == network.score(["you are a fucking idiot"])


def test_whatever_the_text_there_is_one_finite_score(network: Scorer) -> None:
    texts = ["", " ", "\x00\x00", "ﷺ" * 300, "zqxv " * 500, "idiot"]
    found = network.score(texts)
    assert len(found) == len(texts)
    assert all(np.isfinite(found))
    assert max(found[:-1]) < 0.1 < found[-1], "no word that it knows is no finding"
    assert network.score([]) == []
    assert network.score(texts * 40) == pytest.approx(found * 40, abs=1e-5), "whatever stands in the same batch"


HATEFUL, OTHERS, PLAIN = "hateful cases", "all others", "neutral and kind words, and hatred of things"


@pytest.mark.parametrize(
    ("of", "wanted"),
    [
        (WordScorer(kind="words"), {HATEFUL: 0.105, OTHERS: 0.176, PLAIN: 0.021}),
        (ShippedScorer(), {HATEFUL: 0.428, OTHERS: 0.446, PLAIN: 0.153}),
    ],
)
def test_on_hatecheck(of: ScorerConfig, wanted: dict[str, float], shared_data: Callable[[str], Path]) -> None:
    """Roettger et al. 2021 (ACL): 3,728 cases, 2,563 of them hateful. Neither tells hate from what only speaks like it."""
    with (shared_data("hatecheck") / "test_suite_cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    toxic = np.array(scorer(of).score([row["test_case"] for row in rows])) >= 0.5
    hateful = np.array([row["label_gold"] == "hateful" for row in rows])
    plain = np.isin([row["functionality"] for row in rows], ["ident_neutral_nh", "ident_pos_nh", "target_obj_nh"])
    assert (hateful.sum(), plain.sum(), len(rows)) == (2563, 380, 3728)
    found = {HATEFUL: toxic[hateful].mean(), OTHERS: toxic[~hateful].mean(), PLAIN: toxic[plain].mean()}
    assert found == pytest.approx(wanted, abs=0.001)


def test_of_what_harmless_people_write_it_takes_little_for_toxic(
    network: Scorer, shared_data: Callable[[str], Path]
) -> None:
    with (shared_data("xstest") / "xstest_prompts.csv").open(newline="") as file:
        safe = [row["prompt"] for row in csv.DictReader(file) if row["label"] == "safe"]
    assert sum(score >= 0.5 for score in network.score(safe)) == 9, "of 250, mostly on killing of processes"
