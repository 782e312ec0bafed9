"""What evaluation adds to the time that vLLM itself needs for the same prompts, both sides in one process on one loaded model.

    python recipes/quickstart/prepare.py
    python benchmarks/bench_evaluate.py --items 1000

Ours: items to tokens, batches as `serinus eval` makes them, scores with their intervals, items.parquet. vLLM's: one call of
`LLM.generate` with all prompts as tokens, made beforehand, asked for what is scored and no more (log-probabilities of the
prompt, or greedy text). Three quarters of the items are multiple choice (four prompts each), the others write 16 tokens. The cache
of prompts is emptied before each side; sides alternate; the figure is the median of the rounds' ratios. Loading is neither's.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.config import home
from cluster.storage import open_storage
from pipelines.base_model import as_folder
from pipelines.config import EvaluateConfig
from pipelines.evaluation.engine import EngineSettings, Scorer
from pipelines.evaluation.evaluate import check_complete, scores
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.rows import write_rows
from pipelines.evaluation.sharing import FIRST_BATCH, next_size
from pipelines.evaluation.strata import with_strata
from pipelines.offline_engine import ENVIRONMENT
from pipelines.task_config import TaskConfig

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS = ROOT / "recipes" / "quickstart" / "general.jsonl"
GGUF = ROOT / "build" / "quickstart" / "SmolLM2-135M-Instruct.gguf"
TASKS = (
    TaskConfig(name="choice", kind="multiple_choice", path=str(QUESTIONS)),
    TaskConfig(name="written", kind="qa", path=str(QUESTIONS), max_new_tokens=16),
)
CONFIG = EvaluateConfig(tasks=TASKS, max_model_len=512)


def items(num: int) -> list[Item]:
    """The quickstart's questions, numbered anew until there are enough: no two begin alike."""
    lines = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    found = []
    for at in range(num):
        line = lines[at % len(lines)]
        prompt, answers = f"{at + 1}. {line['prompt']}", tuple(f" {one}" for one in line["choices"])
        item = Item("choice", "multiple_choice", str(at), prompt, answers, line["answer"])
        if at % 4 == 3:
            item = replace(
                item, task="written", kind="qa", answers=(answers[line["answer"]],), gold=0, max_new_tokens=16
            )
        found.append(item)
    return sorted(found, key=lambda item: item.task)


def ours(engine: Scorer, asked: list[Item]) -> list[Row]:
    rows: list[Row] = []
    at, size = 0, FIRST_BATCH
    while batch := asked[at : at + size]:
        began = time.monotonic()
        rows += engine.answer(batch)
        at, size = at + len(batch), next_size(len(batch), time.monotonic() - began)
    check_complete("bench", asked, rows)
    scores(CONFIG, rows)
    write_rows(io.BytesIO(), with_strata(asked, rows))
    return rows


def prompts(engine: Scorer, asked: list[Item]) -> tuple[list[dict[str, Any]], list[Any]]:
    """What vLLM is given: tokens, and what is asked of each."""
    from vllm import SamplingParams

    scored = [engine.asked.query(i.prompt, a).tokens for i in asked if i.kind == "multiple_choice" for a in i.answers]
    written = [engine.asked.prompt(item)[0] for item in asked if item.kind == "qa"]
    told = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    greedy = SamplingParams(max_tokens=16, temperature=0)
    how = [told] * len(scored) + [greedy] * len(written)
    return [{"prompt_token_ids": tokens} for tokens in (*scored, *written)], how


def timed(engine: Scorer, side: Callable[[], object]) -> float:
    engine.llm.reset_prefix_cache()
    began = time.perf_counter()
    side()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: the quickstart's")
    asked = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    folder = asked.model or as_folder(GGUF, open_storage(str(home() / "models")))
    engine, these = Scorer(), items(asked.items)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    engine.start(EngineSettings(str(folder.parent), folder.name, CONFIG.max_model_len, 0, 1.0, 0, weights))
    given = prompts(engine, these)
    ours(engine, these[:4] + these[-4:])  # of both tasks: the first requests compile
    rounds = []
    for at in range(asked.rounds):
        sides = [("ours", lambda: ours(engine, these)), ("vllm", lambda: engine.llm.generate(*given, use_tqdm=False))]
        took = {name: timed(engine, side) for name, side in (sides if at % 2 else sides[::-1])}
        rounds.append(took["ours"] / took["vllm"])
        print(
            f"round {at + 1}: ours {took['ours']:.1f} s, vLLM {took['vllm']:.1f} s, ratio {rounds[-1]:.3f}", flush=True
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{asked.items} items, {len(given[0])} prompts: median ratio {statistics.median(rounds):.3f}, peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
