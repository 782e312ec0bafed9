"""From JSON lines to Parquet by one recipe: CPU seconds of serinus, on Ray and without, beside other systems, in one run.

    python benchmarks/bench_clean.py --input FOLDER [--sides serinus ray datatrove-shipped ...] [--datatrove PYTHON] [--repeats N]
                                     [--data-juicer PYTHON] [--nemo-curator PYTHON] [--scaling] [--small] [--memory]

FOLDER holds JSONL files with a field `text` (benchmarks/corpus.py makes them); without it documents are made of CPython's
language reference. The recipe: repair of Unicode, rewriting, personal data, language, Gopher's quality and repetition rules,
C4's, exact duplicates, MinHash. What a system leaves out of it stands at the head of its peer_*.py; the plain rules are those
of tests/unit/pipelines/data/reference.py. Beside Data-Juicer and NeMo-Curator, which leave out most, serinus runs a second time
without that, as far as a recipe can leave it out (language and n-grams stay in). Each side runs as a command of its own, on the
first few megabytes and on many more: the difference gives what a megabyte costs, the rest is start-up. CPU seconds are those of
all processes below the command. With --repeats all sides take turns so many times, and a side's median counts.

--scaling: the clean stage on Ray on one core and on two (wall clock). --small: a small input with and without Ray Data.
--memory: the most that a worker of its own needs for the smaller input and for the larger one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.processes import Used, run  # noqa: E402

HERE = Path(__file__).parent
LIKE = "serinus-like-"


class Side(NamedTuple):
    name: str
    command: tuple[str, ...]
    """FOLDER stands for the folder of documents."""
    is_ours: bool = False


class Cost(NamedTuple):
    fixed_s: float
    megabyte_s: float


def sides_of(args: argparse.Namespace) -> list[Side]:
    ours = (sys.executable, str(HERE / "clean_serinus.py"), "FOLDER")
    known = [Side("serinus", (*ours, "process"), True), Side("ray", (*ours, "ray-data"), True)]
    less = (name for name, python in (("data-juicer", args.data_juicer), ("nemo-curator", args.nemo_curator)) if python)
    known += [Side(f"{LIKE}{name}", (*ours, "process", "--like", name), True) for name in less]
    known.append(Side("plain-rules", (sys.executable, str(HERE / "peer_plain.py"), "FOLDER")))
    if args.datatrove:
        peer = (args.datatrove, str(HERE / "peer_datatrove.py"), "clean", "FOLDER", "--words")
        known += [Side(f"datatrove-{words}", (*peer, words)) for words in ("shipped", "white-space")]
    if args.data_juicer:
        known.append(Side("data-juicer", (args.data_juicer, str(HERE / "peer_data_juicer.py"), "FOLDER")))
    if args.nemo_curator:
        known.append(Side("nemo-curator", (args.nemo_curator, str(HERE / "peer_nemo_curator.py"), "FOLDER")))
    return [side for side in known if not args.sides or side.name in args.sides]


def generated() -> Iterator[str]:
    """Documents of paragraphs drawn from CPython's language reference: English with code, some broken, some repetitive."""
    rng = random.Random(0)
    paragraphs = [part for text in topics.values() for part in text.split("\n\n") if len(part) > 80]
    while True:
        text = "\n\n".join(rng.choices(paragraphs, k=rng.randint(2, 20)))
        yield text.replace("e", "é", 5).encode().decode("latin-1") if rng.random() < 0.05 else text


def texts_of(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def write_first(texts: Iterator[str], megabytes: float, folder: Path) -> float:
    """The first documents of that size altogether, in files of 32 MB. Returns the megabytes of text."""
    folder.mkdir()
    size, text = 0, next(texts, None)
    while text is not None and size < megabytes * 1e6:
        part, begun = folder / f"part-{size // 32_000_000:05}.jsonl", size
        with part.open("w", encoding="utf-8") as out:
            while text is not None and size < megabytes * 1e6 and size - begun < 32_000_000:
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size, text = size + len(text.encode()), next(texts, None)
    if size < megabytes * 1e6:
        raise SystemExit(
            f"the documents have {size / 1e6:.1f} MB of text, and {megabytes:g} are asked for: give more, or less"
        )
    return size / 1e6


def used(side: Side, folder: Path, *more: str) -> Used:
    return run([*(str(folder) if part == "FOLDER" else part for part in side.command), *more])


def answer_of(found: Used) -> dict[str, float]:
    """The line of JSON that it printed last; warnings may come after it."""
    told: dict[str, float] = json.loads([line for line in found.output.splitlines() if line.startswith("{")][-1])
    return told


def cost_of(side: Side, runs: Sequence[Sequence[Used]], megabytes: Sequence[float]) -> Cost:
    """Of runs on the few megabytes and on the many."""
    few, many = (statistics.median(one.cpu_s for one in some) for some in runs)
    megabyte_s = (many - few) / (megabytes[1] - megabytes[0])
    cost = Cost(few - megabyte_s * megabytes[0], megabyte_s)
    told, size = answer_of(runs[1][-1]), f"{megabytes[0]:.1f}, {megabytes[1]:.1f} MB"
    seconds = ", ".join(" / ".join(f"{one.cpu_s:.1f}" for one in some) for some in runs)
    print(
        f"| {side.name} | {size} | {seconds} | {cost.fixed_s:.1f} | {1 / cost.megabyte_s:.2f} | "
        f"{told['kept']} of {told['documents']} |",
        flush=True,
    )
    return cost


def compare(args: argparse.Namespace, made: Path) -> None:
    print("| side | text | CPU-s | of these start-up | MB/s per core | kept |\n|---|---|---|---|---|---|")
    costs = dict[str, Cost]()
    for kind, sizes in (("ours", args.megabytes), ("theirs", args.peer_megabytes)):
        sides = [side for side in sides_of(args) if side.is_ours == (kind == "ours")]
        if sides:
            folders = [made / f"{kind}-{i}" for i in range(2)]
            megabytes = [
                write_first(documents(args), size, folder) for size, folder in zip(sizes, folders, strict=True)
            ]
            if kind == "ours":
                used(sides[0], folders[0])  # kernels are compiled once on a machine
            turns = [{side: [used(side, at) for at in folders] for side in sides} for _ in range(args.repeats)]
            costs |= {
                side.name: cost_of(side, [[turn[side][i] for turn in turns] for i in range(2)], megabytes)
                for side in sides
            }
    ours = {side.name for side in sides_of(args) if side.is_ours}
    for name in (name for name in costs if name == "ray" or name not in ours):
        for one in ("serinus", LIKE + name):
            if one in costs:
                print(f"{name}: {costs[name].megabyte_s / costs[one].megabyte_s:.2f} times the CPU time of {one}")


def documents(args: argparse.Namespace) -> Iterator[str]:
    return texts_of(args.input) if args.input else generated()


def scaling(args: argparse.Namespace, made: Path) -> None:
    """The stage alone, Ray started, so many times in turns. `process` on one core is what there is without Ray."""
    megabytes = write_first(documents(args), args.megabytes[1], made / "scaling")
    side = Side("", (sys.executable, str(HERE / "clean_serinus.py"), "FOLDER", "ray"))
    turns = [
        [answer_of(used(side, made / "scaling", "--cpus", str(cpus)))["stage_s"] for cpus in (1, 2)]
        for _ in range(args.repeats)
    ]
    one, two = zip(*turns, strict=True)
    for cpus, seconds in (("one core", one), ("two", two)):
        print(f"{megabytes:.1f} MB on Ray, {cpus}: {', '.join(f'{s:.1f}' for s in seconds)} s")
    print(f"{statistics.median(one) / statistics.median(two):.2f} times as fast, by the medians")


def small(args: argparse.Namespace, made: Path) -> None:
    megabytes = write_first(documents(args), args.small_megabytes, made / "small")
    command = (sys.executable, str(HERE / "clean_serinus.py"), "FOLDER")
    told = {
        how: [answer_of(used(Side("", (*command, how)), made / "small")) for _ in range(3)]
        for how in ("ray", "ray-data")
    }
    digests = {str(answer["digest"]) for answers in told.values() for answer in answers}
    for how, name in (("ray", "in one task"), ("ray-data", "by Ray Data")):
        seconds = ", ".join(f"{answer['stage_s']:.1f}" for answer in told[how])
        print(f"{megabytes:.1f} MB {name}: {seconds} s")
    print(f"digests: {digests}")


def memory(args: argparse.Namespace, made: Path) -> None:
    side = Side("", (sys.executable, str(HERE / "clean_serinus.py"), "FOLDER", "ray-data"))
    for i, size in enumerate(args.megabytes):
        megabytes = write_first(documents(args), size, made / f"memory-{i}")
        workers = [peak for name, peak in used(side, made / f"memory-{i}").peaks.items() if "ray::" in name]
        print(f"{megabytes:.1f} MB: {len(workers)} workers, the largest {max(workers) / 1e6:.0f} MB of its own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, help="folder of JSONL files with a field `text`")
    parser.add_argument("--sides", nargs="+", help="only these")
    for name in ("datatrove", "data-juicer", "nemo-curator"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help="interpreter of an environment that has it")
    parser.add_argument("--megabytes", nargs=2, type=float, default=(10, 160), help="of text, for serinus")
    parser.add_argument("--peer-megabytes", nargs=2, type=float, default=(1, 11), help="for the others")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--small-megabytes", type=float, default=0.5)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        todo = [
            what for what, asked in ((scaling, args.scaling), (small, args.small), (memory, args.memory)) if asked
        ] or [compare]
        for what in todo:
            what(args, Path(made))


if __name__ == "__main__":
    main()
