"""NeMo-Curator's own stages over JSONL, called one after the other in one process; run where nemo-curator 1.4 is installed.

    PYTHON peer_nemo_curator.py FOLDER

What of the recipe of bench_clean.py it has: ftfy, links, Gopher's quality and repetition rules, C4's lines with phrases of
policies, Parquet. Left out: its language filter (it downloads its model), personal data, exact and near duplicates (they ask for
a GPU), C4's other rules.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

BATCH = 2_048


def stages() -> list[Any]:
    from nemo_curator.stages.text.filters import ScoreFilter
    from nemo_curator.stages.text.filters.heuristic import repetition, string
    from nemo_curator.stages.text.modifiers.modifier import Modify
    from nemo_curator.stages.text.modifiers.string.c4 import BoilerPlateStringModifier
    from nemo_curator.stages.text.modifiers.string.url_remover import UrlRemover
    from nemo_curator.stages.text.modifiers.unicode.unicode_reformatter import UnicodeReformatter

    filters = [
        string.WordCountFilter(min_words=50, max_words=100_000),
        string.MeanWordLengthFilter(min_mean_word_length=3, max_mean_word_length=10),
        string.SymbolsToWordsFilter(),
        string.BulletsFilter(),
        string.EllipsisFilter(),
        string.WordsWithoutAlphabetsFilter(),
        repetition.RepeatedLinesFilter(),
        repetition.RepeatedParagraphsFilter(),
        repetition.RepeatedLinesByCharFilter(),
        repetition.RepeatedParagraphsByCharFilter(),
        *(repetition.RepeatingTopNGramsFilter(n, share) for n, share in ((2, 0.2), (3, 0.18), (4, 0.16))),
        *(repetition.RepeatingDuplicateNGramsFilter(n, (20 - n) / 100) for n in range(5, 11)),
    ]
    modifiers = [UnicodeReformatter(), UrlRemover(), BoilerPlateStringModifier()]
    return [Modify(modifiers), *map(ScoreFilter, filters)]


def main(folder: Path) -> None:
    import pandas as pd
    from nemo_curator.tasks import DocumentBatch

    todo, num, num_kept = stages(), 0, 0
    with tempfile.TemporaryDirectory() as out:
        for file in sorted(folder.glob("*.jsonl")):
            for part, frame in enumerate(pd.read_json(file, lines=True, chunksize=BATCH)):
                num += len(frame)
                batch = DocumentBatch(dataset_name="bench", data=frame)
                for stage in todo:
                    batch = stage.process(batch)
                    if batch is None:
                        break
                if batch is not None:
                    num_kept += len(batch.to_pandas())
                    batch.to_pandas().to_parquet(f"{out}/{file.stem}-{part}.parquet", compression="zstd")
    print(json.dumps({"documents": num, "kept": num_kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
