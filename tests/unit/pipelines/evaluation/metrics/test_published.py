"""Published predictions give the published figures. The data lies beside the project; without it these are skipped."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.metrics import bbq, choice, squad, tatqa, translation, weat

SHARED = Path(__file__).resolve().parents[6] / "shared" / "data"


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the public data set {name} is not beside the project ({folder})")
    return folder


def records(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text().splitlines())


@pytest.mark.parametrize("system", ["BERT", "BiDAF_Self_Attention_ELMo", "nlnet"])
def test_squad(system: str) -> None:
    folder = shared("squad2")
    articles = json.loads((folder / "squad2_dev.json").read_text())["data"]
    questions = [question for article in articles for p in article["paragraphs"] for question in p["qas"]]
    golds = {question["id"]: [answer["text"] for answer in question["answers"]] for question in questions}
    found = squad.score_all(golds, json.loads((folder / f"predictions_{system}.json").read_text()))
    official = json.loads((folder / "reference_scores_official_script.json").read_text())[system]
    assert (found.exact_match, found.f1) == pytest.approx((official["exact"], official["f1"]), abs=1e-9)
    assert found.num_items == official["total"]


def test_squad_of_bert_is_the_published_figure() -> None:
    official = json.loads((shared("squad2") / "reference_scores_official_script.json").read_text())["BERT"]
    assert (round(official["exact"], 2), round(official["f1"], 2)) == (77.83, 80.96)


@pytest.mark.parametrize(
    ("system", "published", "within", "read_alone", "num_unread"),
    [("gpt-4-32k", 83.97, 0.005, 82.95, 27), ("gpt-35-turbo-16k", 65.04, 0.2, 64.41, 30)],
)
def test_medqa(system: str, published: float, within: float, read_alone: float, num_unread: int) -> None:
    folder = shared("medqa")
    questions = list(records(folder / "medqa_us_4opt_test.jsonl"))
    choices = {f"test_{i:04}.json": list(q["options"].values()) for i, q in enumerate(questions)}
    golds = {f"test_{i:04}.json": "ABCD".index(q["answer_idx"]) for i, q in enumerate(questions)}
    answers = {r["file"]: "".join(r["pred"][:1]) for r in records(folder / f"predictions_{system}.jsonl")}
    # The published figure counts an answer without a choice as A, and by luck wins a point.
    assert choice.score_all(choices, golds, answers, unread_as=0).accuracy == pytest.approx(published, abs=within)
    found = choice.score_all(choices, golds, answers)
    assert (round(found.accuracy, 2), found.num_unread) == (read_alone, num_unread)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.long)])
def test_wmt22_to_three_decimals(every: int) -> None:
    folder = shared("wmt22")
    lines = (folder / "scores" / "automatic-scores.tsv").read_text().splitlines()[1:]
    fields = [line.split("\t") for line in lines if line.count("\t") == 5]
    published = {(pair, system, metric): float(score) for pair, system, _, _, metric, score in fields}
    outputs = sorted((folder / "txt" / "system-outputs").iterdir())
    assert len(outputs) == 18
    for path in outputs[::every]:
        _, pair, _, system, language = path.name.split(".")
        reference = folder / "txt" / "references" / f"generaltest2022.{pair}.ref.A.{language}"
        hypotheses, references = (p.read_text().split("\n")[:-1] for p in (path, reference))
        found = translation.score_all(hypotheses, [references])
        for metric, value in (("bleu-A", found.bleu), ("chrf-A", found.chrf)):
            assert value == pytest.approx(published[pair, system, metric], abs=0.0005)


def test_tatqa_of_the_sample_predictions() -> None:
    folder = shared("tatqa")
    questions = [
        q
        for table in json.loads((folder / "dataset_raw" / "tatqa_dataset_dev.json").read_text())
        for q in table["questions"]
    ]
    golds = {q["uid"]: tatqa.Gold(_parts(q["answer"]), q["scale"], q["answer_type"]) for q in questions}
    predicted = json.loads((folder / "sample_prediction.json").read_text())
    # A question that the file has no prediction for was not answered, as the official script takes it.
    answers = {uid: tatqa.Found(*_predicted(*predicted.get(uid, ([], "")))) for uid in golds}
    found = tatqa.score_all(golds, answers)
    assert (found.num_items, round(found.exact_match, 2), round(found.f1, 2)) == (1668, 45.92, 58.88)
    assert round(found.scale, 2) == 90.95


def _parts(answer: Any) -> tuple[str, ...]:
    return tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)


def _predicted(answer: Any, scale: str) -> tuple[tuple[str, ...], str]:
    return (_parts(answer) if answer else ()), scale


@pytest.mark.parametrize(("number", "effect", "p"), [(0, 1.54, 1e-4), (5, 1.89, 1e-4)])
def test_weat_1_and_6(number: int, effect: float, p: float) -> None:
    folder = shared("weat")
    lines = (folder / "weat_w2v____old.txt").read_text().splitlines()[1:]
    vectors = {word: [float(x) for x in rest.split()] for word, _, rest in (line.partition(" ") for line in lines)}
    lists = json.loads((folder / "weat_word_lists_caliskan.json").read_text())[number]
    words = [lists[f"{place}_{kind}"]["words"] for kind in ("target", "attribute") for place in ("first", "second")]
    found = weat.score(vectors, (words[0], words[1]), (words[2], words[3]))
    assert round(found.effect_size, 2) == effect
    assert found.p <= p
    assert found.num_missing == 0


Accuracies = tuple[float, float]


@pytest.mark.parametrize(
    ("subject", "prompt", "accuracies"),
    [
        ("Religion", "arc", (43.83, 85.17)),
        ("Religion", "race", (65.0, 88.0)),
        ("Sexual_orientation", "race", (68.75, 93.98)),
    ],
)
def test_bbq_of_unifiedqa(subject: str, prompt: str, accuracies: Accuracies) -> None:
    rows = list(records(shared("bbq") / "results" / "UnifiedQA" / f"preds_{subject}.jsonl"))
    said: Callable[[dict[str, Any]], str] = lambda row: row[f"unifiedqa-t5-11b_pred_{prompt}"]  # noqa: E731
    answered = []
    for row in rows:
        unknown = next(i for i in range(3) if row["answer_info"][f"ans{i}"][1] == "unknown")
        taken = bbq.chosen(said(row), [row[f"ans{i}"] for i in range(3)])
        answered.append(bbq.Answered(row["context_condition"], row["label"], taken, unknown))
    ambiguous, clear = bbq.score(answered, "ambig"), bbq.score(answered, "disambig")
    assert (round(ambiguous.accuracy, 2), round(clear.accuracy, 2)) == accuracies
    assert ambiguous.num_unread == clear.num_unread == 0
