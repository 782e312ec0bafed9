"""Task files for professional domains (recipes/domains), each with data in its format, the published ones where they are."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import load_yaml
from cluster.errors import InputError
from pipelines.config import EvaluateConfig, LifecycleConfig
from pipelines.evaluation import standalone
from pipelines.evaluation.items import Item, Reply, Text
from pipelines.evaluation.scoring import row
from tests.unit.pipelines.evaluation.test_tatqa import BLOCK

SHIPPED = Path(__file__).parents[4] / "recipes" / "domains"
DOMAINS = {
    "finance": ("tatqa",),
    "medicine": ("medqa", "medqa_written"),
    "law": ("hearsay", "abercrombie", "contract_qa", "private_right", "casehold"),
    "reasoning": ("gsm8k",),
}
LEGAL = ("hearsay", "abercrombie", "contract_qa", "proa")


@pytest.fixture
def domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, to put data into."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Path(shutil.copytree(SHIPPED, tmp_path / "domains", ignore=shutil.ignore_patterns("data")))


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def casehold(path: Path) -> None:
    holdings = {f"holding_{n}": f"holding that {n}" for n in range(5)}
    table(
        path,
        [{"": n, "citing_prompt": f"It was so held <HOLDING> {n} times", **holdings, "label": n} for n in range(5)],
    )


def made(data: Path) -> None:
    """A few rows of each, in the format in which it is published."""
    choices = {"A": "flu", "B": "gout", "C": "none", "D": "all"}
    asked = {"answer": "gout", "options": choices, "answer_idx": "B"}
    lines(data / "medqa_us_4opt_test.jsonl", [{"question": f"What ails patient {n}?", **asked} for n in range(3)])
    sums = [(f"How much is {n} thousand and 1?", f"It is {n},001.\n#### {n},001") for n in range(1, 9)]
    lines(data / "gsm8k_test.jsonl", [{"question": question, "answer": answer} for question, answer in sums])
    data.joinpath("tatqa_dataset_dev.json").write_text(json.dumps([BLOCK]))
    text = 'He said "yes",\nand\tleft.'
    for name in LEGAL:
        answer = "generic" if name == "abercrombie" else "Yes"
        row = {"index": 0, "answer": answer, "text": text, "question": "Does it?", "slice": "standard"}
        table(data / "legalbench" / name / "test.tsv", [row, {**row, "index": 1}], "\t")
    casehold(data / "casehold_test.csv")


def published(data: Path, shared_data: Callable[[str], Path]) -> None:
    files = {
        "medqa_us_4opt_test.jsonl": shared_data("medqa") / "medqa_us_4opt_test.jsonl",
        "gsm8k_test.jsonl": shared_data("gsm8k") / "test.jsonl",
        "tatqa_dataset_dev.json": shared_data("tatqa") / "dataset_raw" / "tatqa_dataset_dev.json",
        **{f"legalbench/{name}/test.tsv": shared_data("legalbench") / "tasks" / name / "train.tsv" for name in LEGAL},
    }
    for name, file in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).symlink_to(file)
    casehold(data / "casehold_test.csv")  # none of it lies here


def asked(domains: Path, domain: str) -> dict[str, list[Item]]:
    """Task -> its items."""
    path = domains / f"{domain}.yaml"
    items = standalone.items_of(load_yaml(path, EvaluateConfig), str(path))
    assert {item.task for item in items} == {*DOMAINS[domain]}
    return {task: [item for item in items if item.task == task] for task in DOMAINS[domain]}


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_is_read_with_data_in_its_format(domains: Path, domain: str) -> None:
    made(domains / "data")
    for items in asked(domains, domain).values():
        for item in items:
            assert item.prompt.strip()
            assert item.answers[item.gold].strip()


def test_what_they_show_and_what_is_right(domains: Path) -> None:
    made(domains / "data")
    law, medicine, (sums,) = asked(domains, "law"), asked(domains, "medicine"), asked(domains, "reasoning").values()
    assert law["hearsay"][0].prompt.endswith('Q: He said "yes",\nand\tleft. Is there hearsay?\nA:')
    assert law["hearsay"][0].prompt.startswith("Hearsay is an out-of-court statement")
    assert law["contract_qa"][0].prompt.endswith("\nQuestion: Does it?\nLabel:")
    assert [item.answers[item.gold] for item in law["casehold"]] == [
        f" holding that {item.prompt.split()[5]}" for item in law["casehold"]
    ]
    letters, written = medicine["medqa"][0], medicine["medqa_written"][0]
    assert (letters.answers, letters.gold) == ((" A", " B", " C", " D"), 1)
    assert letters.prompt.endswith("A. flu\nB. gout\nC. none\nD. all\nAnswer:")
    assert written.prompt.endswith("?\nA. flu\nB. gout\nC. none\nD. all\nAnswer:")
    assert (written.answers[written.gold], written.chat) == ("gout", True)
    assert sums[0].prompt.count("####") == 5
    right = sums[0].answers[0].rpartition(" ")[2]
    for text, is_right in ((f" so it is ${right}.", True), (f"{right.replace(',', '')}", True), ("It is 17", False)):
        assert row(sums[0], Reply(Text((text,), 1)))["correct"] is is_right


def test_the_published_data(domains: Path, shared_data: Callable[[str], Path]) -> None:
    published(domains / "data", shared_data)
    nums = {task: len(items) for domain in DOMAINS for task, items in asked(domains, domain).items()}
    assert nums == {
        "tatqa": 1000, "medqa": 1273, "medqa_written": 300, "hearsay": 5, "abercrombie": 5, "contract_qa": 8, "private_right": 5,
        "casehold": 5, "gsm8k": 655,
    }  # fmt: skip
    medqa = asked(domains, "medicine")["medqa"]
    rows = [json.loads(line) for line in (shared_data("medqa") / "medqa_us_4opt_test.jsonl").open()]
    assert Counter("ABCD"[item.gold] for item in medqa) == Counter(one["answer_idx"] for one in rows)


def test_the_published_solutions_of_gsm8k_are_right_as_they_are_read(
    domains: Path, shared_data: Callable[[str], Path]
) -> None:
    """Each problem's own solution; and those of four models, as graded by those who published them (Cobbe et al. 2021)."""
    published(domains / "data", shared_data)
    (items,) = asked(domains, "reasoning").values()
    assert all(row(item, Reply(Text((item.answers[0],), 1)))["correct"] for item in items)
    by_question = {item.prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:"): item for item in items}
    given = [json.loads(line) for line in (shared_data("gsm8k") / "example_model_solutions.jsonl").open()]
    graded = [
        (by_question[one["question"]], solution)
        for one in given
        if one["question"] in by_question
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
        if (solution := one[model])
    ]
    other = [
        solution["solution"]
        for item, solution in graded
        if row(item, Reply(Text((solution["solution"],), 1)))["correct"] != solution["is_correct"]
    ]
    assert (len(graded), len(other)) == (2620, 0)


@pytest.mark.parametrize("domain", DOMAINS)
def test_without_data_it_says_which_file_is_missing(domains: Path, domain: str) -> None:
    with pytest.raises(InputError) as caught:
        asked(domains, domain)
    assert str(domains) in f"{caught.value.where} {caught.value.found}"


@pytest.mark.parametrize("domain", DOMAINS)
def test_they_stand_in_a_recipe_as_well(domain: str) -> None:
    tasks = load_yaml(SHIPPED / f"{domain}.yaml", EvaluateConfig).tasks
    limit = {"tasks": list(DOMAINS[domain]), "max_percent": 1}
    fields = {"name": "m", "storage": "s", "data": {"sources": [{"path": "raw"}]}, "model": {"source": "model"}}
    gate = {"requirements": [{"compare": "trained vs base"}], "contamination": [limit]}
    evaluate = {"tasks": [task.model_dump(exclude_unset=True) for task in tasks]}
    assert LifecycleConfig.model_validate({**fields, "evaluate": evaluate, "gate": gate}).evaluate.tasks == tasks
