"""Which documents hang together as near duplicates, beside datatrove's MinHash on the same texts.

    python benchmarks/clusters.py FOLDER_OF_JSONL --datatrove PYTHON [--alike | --against-itself]

Both take 14 bands of 8 over 5-grams of words split at white space, in lower case and without punctuation. Their hash functions
differ, so pairs near the threshold are found by one and not by the other. With --alike datatrove takes serinus's words (it lets
signs such as (c) stand) and hash functions, and what is left are other decisions. How far functions alone move the result is
told by datatrove beside itself with another seed. A document is the same when it hangs together with the same documents, and,
more loosely, when both or neither have it hang together with any.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def by_serinus(texts: Sequence[str]) -> list[int]:
    """For each text the number of the first one that it hangs together with; its own where there is none."""
    import numpy as np
    import pyarrow as pa

    from pipelines.config import DedupConfig
    from pipelines.data.dedup import Keys, band_keys, first_of, links

    config = DedupConfig()
    keys = [
        key
        for start in range(0, len(texts), 2_048)
        for key in band_keys(pa.array(texts[start : start + 2_048], pa.large_string()), config)
    ]
    signed = np.array([number for number, key in enumerate(keys) if key], np.int64)
    bands = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, config.num_bands)
    found = Keys(np.arange(len(texts)), np.zeros((len(texts), 2), np.uint64), signed, bands)
    return [int(first) for first in first_of(len(texts), links([found], exact=False).near)]


def by_datatrove(python: str, folder: Path, *how: str) -> list[int]:
    """`how`: of peer_datatrove.py, `--alike` or `--seed N`."""
    command = [python, str(Path(__file__).with_name("peer_datatrove.py")), "clusters", str(folder), *how]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    clusters: list[int] = json.loads(printed.splitlines()[-1])["clusters"]
    firsts = dict[int, int]()
    return [i if cluster < 0 else firsts.setdefault(cluster, i) for i, cluster in enumerate(clusters)]


def groups(firsts: Sequence[int]) -> dict[int, frozenset[int]]:
    """Of each document those that it hangs together with, itself among them."""
    found = defaultdict[int, set[int]](set)
    for i, first in enumerate(firsts):
        found[first].add(i)
    frozen = {first: frozenset(members) for first, members in found.items()}
    return {i: frozen[first] for i, first in enumerate(firsts)}


def similarity(one: str, other: str) -> float:
    """Jaccard's, of the 5-grams of words."""
    from tests.unit.pipelines.data.reference import plain_words

    grams = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in map(plain_words, (one, other))]
    return len(grams[0] & grams[1]) / max(1, len(grams[0] | grams[1]))


def mine(args: argparse.Namespace, texts: Sequence[str]) -> list[int]:
    return by_datatrove(args.datatrove, args.folder, "--seed", "2") if args.against_itself else by_serinus(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--datatrove", metavar="PYTHON", required=True)
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument("--alike", action="store_true", help="datatrove with serinus's words and hash functions")
    sides.add_argument("--against-itself", action="store_true", help="datatrove with seed 2 in serinus's place")
    args = parser.parse_args()
    from benchmarks.bench_clean import texts_of

    texts = list(texts_of(args.folder))
    how = ["--alike"] if args.alike else []
    ours, theirs = groups(mine(args, texts)), groups(by_datatrove(args.datatrove, args.folder, *how))
    alone = [sum(len(group) > 1 for group in side.values()) for side in (ours, theirs)]
    same = sum(ours[i] == theirs[i] for i in range(len(texts)))
    alike = sum((len(ours[i]) > 1) == (len(theirs[i]) > 1) for i in range(len(texts)))
    one = "datatrove with another seed" if args.against_itself else "serinus"
    print(f"{len(texts)} documents, of which {alone[0]} hang together with others by {one}, {alone[1]} by datatrove")
    print(f"the same cluster: {100 * same / len(texts):.3f} %; a cluster or none: {100 * alike / len(texts):.3f} %")
    for name, here, other in ((one, ours, theirs), ("datatrove", theirs, ours)):
        found = [max(similarity(texts[i], texts[j]) for j in here[i] if j != i)
                 for i in range(len(texts)) if len(here[i]) > 1 and len(other[i]) == 1]  # fmt: skip
        shares = ", ".join(f"{bound:g}: {sum(value >= bound for value in found)}" for bound in (0.5, 0.7, 0.8, 0.9))
        print(f"only {name} has {len(found)} hang together; of them with a similarity of at least {shares}")


if __name__ == "__main__":
    main()
