"""The recipe of bench_clean.py a document at a time in plain Python: the rules that serinus's kernels are held to.

    python benchmarks/peer_plain.py FOLDER

Left out: duplicates, personal data.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    from benchmarks.bench_clean import texts_of
    from pipelines.config import C4Config, FilterConfig
    from pipelines.data.repair import repair_unicode
    from tests.unit.pipelines.data.reference import c4_page, first_objection

    identifier, config = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True), FilterConfig(c4=C4Config())
    kept, num = list[str](), 0
    for raw in texts_of(folder):
        num, text = num + 1, c4_page(repair_unicode(raw))[1]
        if first_objection(text, config) is None:
            identifier.classify(text[:1_000])
            kept.append(text)
    with tempfile.TemporaryDirectory() as out:
        pq.write_table(pa.table({"text": kept}), f"{out}/kept.parquet", compression="zstd")
    print(json.dumps({"documents": num, "kept": len(kept)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
