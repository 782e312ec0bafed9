"""The cases that lighteval tests its own metrics by: ours say the same where they measure the same; where not, it is said why."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.items import ExactItem, Item, Likelihood, Reply, Text
from pipelines.evaluation.metrics import choice, corpus, exact, rouge, squad, translation
from pipelines.evaluation.scoring import row
from tests.unit.pipelines.evaluation.metrics.test_published import shared

Case = dict[str, Any]

MODEL_BASED = "asks another model for its judgement, none of which is a metric here"
PLACEHOLDER = "its only case is a placeholder: log-probabilities above 0, and 1 is expected whatever is computed"
NO_FIGURE = "no task here has this figure"
MATHS = "compares as mathematical expressions, where exact_match compares texts"
NOT_OURS: Mapping[str, str] = {
    "bert_score": MODEL_BASED,
    "bleurt": MODEL_BASED,
    "faithfulness": MODEL_BASED,
    "simpleqa_judge": MODEL_BASED,
    "bits_per_byte": PLACEHOLDER,
    "byte_perplexity": PLACEHOLDER,
    "prediction_perplexity": PLACEHOLDER,
    "expr_gold_metric": f"{MATHS}; its only case is a placeholder",
    "target_perplexity": "what is expected is no perplexity of the log-probabilities given: 1.5 of 0.1, 0.2 and 0.3 nats, and 0.0",
    "acc_golds_likelihood": "whether the right answer is the likeliest text there is, which no task here asks",
    "chrf_plus": f"{NO_FIGURE}: chrF counts no words",
    "ter": f"{NO_FIGURE}: edits of a translation",
    "copyright": f"{NO_FIGURE}: the longest common prefix with a protected text",
    "extractiveness": f"{NO_FIGURE}: how much of a summary is copied",
    "drop": f"{NO_FIGURE}: DROP's own alignment of several spans",
    "mcc": f"{NO_FIGURE}: correlation over classes",
    "mrr": f"{NO_FIGURE}: the rank of the right choice",
    "multi_f1_numeric": f"{NO_FIGURE}: F1 of each class",
    "f1_score_macro": f"{NO_FIGURE}: F1 of each class",
    "pass_at_k_letters": "expects 0 of the right letter, for its cases list no choices that letters could be of",
    "g_pass_at_k_latex": MATHS,
    "g_pass_at_k_math": MATHS,
}
"""Files of cases that say nothing of our metrics, and why."""


def cases(name: str) -> list[Case]:
    found: list[Case] = json.loads((shared("lighteval_metric_cases") / f"{name}.json").read_text())["test_cases"]
    assert found
    return found


def golds(doc: Case) -> list[int]:
    """Indices of the right choices."""
    gold = doc.get("gold_index", 0)
    return gold if isinstance(gold, list) else [gold]


def right_texts(case: Case) -> list[str]:
    return [case["doc"]["choices"][at] for at in golds(case["doc"])]


# --- one text ---------------------------------------------------------------------------------------------------------

OF_ONE_TEXT = ("exact_match", "f1_score", "rouge1", "rouge2", "rougeL", "rougeLsum", "rouge_t5")


@pytest.mark.parametrize("name", OF_ONE_TEXT)
def test_of_one_text(name: str) -> None:
    for case in cases(name):
        (said,), texts = case["model_response"]["text"], right_texts(case)
        found = max((rouge.score(said, text) for text in texts), key=lambda one: one.rouge1)
        # Their F1 is that of words, articles among them, which SQuAD's leaves out.
        # rougeLsum takes lines apart, of which these have one.
        ours = {"em": squad.exact_match(said, texts), "f1": found.rouge1, "rouge1": found.rouge1, "rouge2": found.rouge2,
                "rougeL": found.rouge_l, "rougeLsum": found.rouge_l}  # fmt: skip
        scale = 100 if name == "rouge_t5" else 1
        for metric, expected in case["expected_output"].items():
            assert scale * ours[metric] == pytest.approx(expected, abs=case["tolerance"] * scale), (name, case["name"])


OF_N_GRAMS = ("bleu_1", "bleu_4")


@pytest.mark.parametrize("name", OF_N_GRAMS)
def test_precision_of_n_grams_alone(name: str) -> None:
    """They weigh one length of n-grams alone and smooth nothing: made here of the sums that our BLEU is made of."""
    n = int(name[-1])
    for case in cases(name):
        (said,) = case["model_response"]["text"]
        own, reference, *counts = corpus.bleu_parts(said, right_texts(case))
        matches, num = counts[n - 1], counts[4 + n - 1]
        brevity = math.exp(1 - reference / own) if own < reference else 1.0
        found = brevity * matches / num if num else 0.0
        assert found == pytest.approx(case["expected_output"][name], abs=case["tolerance"]), case["name"]


# --- a corpus ---------------------------------------------------------------------------------------------------------

OF_A_CORPUS = ("bleu", "chrf")


@pytest.mark.parametrize("name", OF_A_CORPUS)
def test_of_a_corpus(name: str) -> None:
    for case in cases(name):
        said = [one["text"][0] for one in case["model_responses"]]
        texts = [one["choices"][one["gold_index"]] for one in case["docs"]]
        # For chrF it gives sacreBLEU a list of each item's references for one of each reference: of which sacreBLEU takes the first
        # translation, against all items' references.
        handed = (said, [texts]) if name == "bleu" else (said[:1], [[text] for text in texts])
        found = getattr(translation.score_all(*handed), name)
        assert found == pytest.approx(case["expected_output"], abs=case["tolerance"]), case["name"]


def test_perplexity_by_words() -> None:
    """Words of the query: its tasks of perplexity have their text there."""
    for case in cases("word_perplexity"):
        rows = [
            {"nll": -sum(one["logprobs"]), "num_tokens": len(doc["query"].split()), "num_bytes": 1, "score": 0}
            for doc, one in zip(case["docs"], case["model_responses"], strict=True)
        ]
        (found, *_) = scores_of("text", "perplexity", rows)
        assert found.value == pytest.approx(case["expected_output"], abs=case["tolerance"]), case["name"]


def test_f1_over_all_classes_together_is_accuracy() -> None:
    for case in cases("f1_score_micro"):
        pairs = zip(case["docs"], case["model_responses"], strict=True)
        right = [is_exact(one["text"][0], [doc["choices"][doc["gold_index"]]]) for doc, one in pairs]
        assert sum(right) / len(right) == pytest.approx(case["expected_output"], abs=case["tolerance"]), case["name"]


# --- choices by likelihood --------------------------------------------------------------------------------------------

BY_LIKELIHOOD = {
    "loglikelihood_acc": "acc",
    "loglikelihood_f1": "loglikelihood_f1",
    "truthfulqa_mc_metrics": "truthfulqa_mc1",
}


@pytest.mark.parametrize(("name", "metric"), BY_LIKELIHOOD.items())
def test_the_likeliest_choice(name: str, metric: str) -> None:
    """They divide by nothing: of choices of one byte each ours does not either. Of one item F1 is whether it is right. Of
    TruthfulQA the first figure, which looks at the first choices alone; the second, MC2, is none of ours."""
    for case in cases(name):
        doc, nats = case["doc"], case["model_response"]["logprobs"]
        nats = nats[: doc.get("specific", {}).get("len_mc1", len(nats))]
        assert bool(case["expected_output"][metric]) == likeliest(nats, golds(doc), metric), case["name"]


def likeliest(nats: Sequence[float], right: Sequence[int], metric: str) -> bool:
    """Whether the likeliest choice is one of the right ones; of TruthfulQA the first choice is the right one."""
    answers, replies = tuple(map(str, range(len(nats)))), tuple(Likelihood(one, 1, 1) for one in nats)
    wanted = [0] if metric == "truthfulqa_mc1" else right
    rows = [row(Item("t", "multiple_choice", "1", "?", answers, gold), Reply(likelihoods=replies)) for gold in wanted]
    return any(one["correct"] for one in rows)


def test_the_first_of_a_ranking() -> None:
    """Of recall at k the cases with k = 1: whether the likeliest is a right one."""
    ranked = [case for case in cases("recall_at_k") if case["metric_params"]["k"] == 1]
    for case in ranked:
        found = likeliest(case["model_response"]["logprobs"], golds(case["doc"]), "recall")
        assert case["expected_output"] == {"recall:k=1": float(found)}, case["name"]
    assert len(ranked) == 1


# --- several texts to one question: each is read by our rule, and counted as they count -------------------------------


def is_exact(text: str, answers: Sequence[str]) -> bool:
    """As a task of kind exact_match reads and compares."""
    if not any(answers):
        return exact.is_right(exact.AS_WRITTEN, exact.read(exact.AS_WRITTEN, text), answers)
    return bool(row(ExactItem("t", "exact_match", "1", "?", tuple(answers)), Reply(Text((text,), 1)))["correct"])


def pass_at_k(right: Sequence[bool], k: int) -> float:
    """Chance that one of k drawn texts is right (Chen et al. 2021, arXiv 2107.03374, section 2.1)."""
    n, c = len(right), sum(right)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def by_letter(text: str, case: Case) -> bool:
    return choice.read_choice(text, case["doc"]["choices"]) == case["doc"]["gold_index"]


def by_text(text: str, case: Case) -> bool:
    return is_exact(text, right_texts(case))


SEVERAL: Mapping[str, tuple[Callable[[str, Case], bool], tuple[str, ...]]] = {
    "pass_at_k": (by_text, ()),
    "pass_at_k_math": (by_text, ()),
    "g_pass_at_k": (by_text, ()),
    # We read a small letter too, which their parser does not.
    "gpqa_instruct_pass_at_k": (by_letter, ("Gpqa Instruct Pass At K - Case Sensitivity",)),
}
"""How each text is read, and the cases in which we differ."""


@pytest.mark.parametrize("name", SEVERAL)
def test_each_of_several_texts(name: str) -> None:
    read, other = SEVERAL[name]
    differ = []
    for case in cases(name):
        k, texts = case["metric_params"]["k"], case["model_response"]["text"]
        # G-Pass@k is pass@k at the threshold 0 (Liu et al. 2024, arXiv 2412.13147, section 2.2).
        (expected, *_) = case["expected_output"].values()
        found = pass_at_k([read(text, case) for text in texts], k)
        if found != pytest.approx(expected, abs=case["tolerance"]):
            differ.append(case["name"])
    assert tuple(differ) == other


@pytest.mark.parametrize("name", ["avg_at_k", "avg_at_k_math"])
def test_the_mean_over_the_first_texts(name: str) -> None:
    """Against the first right answer alone."""
    for case in cases(name):
        k, (expected,) = case["metric_params"]["k"], case["expected_output"].values()
        found = [is_exact(text, right_texts(case)[:1]) for text in case["model_response"]["text"][:k]]
        assert sum(found) / k == pytest.approx(expected, abs=case["tolerance"]), case["name"]


def test_the_text_of_the_majority() -> None:
    for case in cases("maj_at_k"):
        ((text, _),) = Counter(case["model_response"]["text"]).most_common(1)
        assert case["expected_output"] == {"maj@k:k=3": float(by_text(text, case))}, case["name"]


def test_a_letter_in_a_long_answer() -> None:
    """We read a small letter too, which their parser does not."""
    differ = []
    for case in cases("gpqa_instruct_metric"):
        (text,) = case["model_response"]["text"]
        if case["expected_output"] != {"extractive_match": float(by_letter(text, case))}:
            differ.append(case["name"])
    assert differ == ["Answer in Different Case"]


# --- all of them ------------------------------------------------------------------------------------------------------

USED = {
    *OF_ONE_TEXT, *OF_N_GRAMS, *OF_A_CORPUS, *BY_LIKELIHOOD, *SEVERAL, "word_perplexity", "f1_score_micro", "recall_at_k",
    "avg_at_k", "avg_at_k_math", "maj_at_k", "gpqa_instruct_metric",
}  # fmt: skip


def test_every_file_is_used_or_said_to_be_none_of_ours() -> None:
    there = {path.stem for path in shared("lighteval_metric_cases").glob("*.json")}
    assert there == USED | NOT_OURS.keys()
    assert not USED & NOT_OURS.keys()
