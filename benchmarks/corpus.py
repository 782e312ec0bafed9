"""Documents for benchmarks of cleaning: real texts of many kinds and languages, cut and joined, some spoilt as the web spoils them.

    python benchmarks/corpus.py FOLDER [--data ../shared/data] [--documents 50000]

Writes JSON lines, the same ones for the same data. Kinds and their shares: sentences of 75 languages joined to documents (40 %),
passages of books (20 %), articles of web pages (15 %), news, encyclopaedic and C4's texts (25 %).
Of all documents 15 % get a blemish of SPOILERS. Kinds that are missing below the folder of data leave their share to the others.
"""

from __future__ import annotations

import argparse
import html
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

SPOILT = 0.15
FILE_CHARACTERS = 32_000_000
"""About so many in a file; the last one has what is left."""

Draw = Callable[[random.Random], str]


def documents(data: Path, num: int) -> Iterator[str]:
    rng = random.Random(0)
    kinds = [(share, draw) for share, made in KINDS if (draw := made(data)) is not None]
    assert kinds, f"no texts below {data}"
    shares, draws = zip(*kinds, strict=True)
    for _ in range(num):
        text = rng.choices(draws, shares)[0](rng)
        yield rng.choice(SPOILERS)(text, rng) if rng.random() < SPOILT else text


def sentences(data: Path) -> Draw | None:
    """3 to 40 sentences of one language, in paragraphs."""
    files = sorted((data / "langid_lingua").rglob("*.txt"))
    languages = [file.read_text(encoding="utf-8").splitlines() for file in files if file.name != "SOURCE.txt"]
    return (
        (lambda rng: _paragraphs(rng.choices(rng.choice(languages), k=rng.randint(3, 40)), rng)) if languages else None
    )


def books(data: Path) -> Draw | None:
    return _passages(
        [path.read_text(encoding="utf-8") for path in sorted((data / "corpus_gutenberg_md").rglob("*.md"))]
    )


def pages(data: Path) -> Draw | None:
    """Of web articles, as people and as an extractor took them from their pages."""
    texts = []
    for file in sorted((data / "web_article_benchmark").rglob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        texts += [page["articleBody"] for page in found.values() if isinstance(page, dict) and page.get("articleBody")]
    return _passages(texts)


def articles(data: Path) -> Draw | None:
    texts = [*_json_lines(data / "llamafactory_pretrain_demo" / "c4_demo.jsonl", "text")]
    for file in sorted((data / "neardup_minhash").glob("*.train")):
        texts += [line.split(" ", 1)[1] for line in file.read_text(encoding="utf-8").splitlines()]  # behind an id
    squad = data / "squad2" / "squad2_dev.json"
    if squad.exists():
        entries = json.loads(squad.read_text(encoding="utf-8"))["data"]
        texts += ["\n\n".join(part["context"] for part in entry["paragraphs"]) for entry in entries]
    for file in sorted((data / "wmt22" / "txt" / "references").glob("*")):
        texts.append(file.read_text(encoding="utf-8"))
    return _passages(texts)


KINDS = ((0.40, sentences), (0.20, books), (0.15, pages), (0.25, articles))


def _json_lines(path: Path, field: str) -> list[str]:
    return [json.loads(line)[field] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _passages(texts: list[str]) -> Draw | None:
    """300 to 5,000 characters of a text, from one white space to another; shorter texts whole half of the time."""
    texts = [text for text in texts if text.strip()]
    weights = [min(len(text), 100_000) for text in texts]

    def draw(rng: random.Random) -> str:
        text, size = rng.choices(texts, weights)[0], int(300 * 17 ** rng.random())
        if len(text) <= size or (len(text) < 8_000 and rng.random() < 0.5):
            return text
        start = rng.randrange(len(text) - size + 1)
        return text[start : start + size].split(" ", 1)[-1]

    return draw if texts else None


def _paragraphs(parts: list[str], rng: random.Random) -> str:
    gaps = rng.choices((" ", "\n", "\n\n"), (0.7, 0.15, 0.15), k=len(parts))
    return "".join(part + gap for part, gap in zip(parts, gaps, strict=True)).strip()


# --- blemishes --------------------------------------------------------------------------------------------------------


def _sprinkle(text: str, what: list[str], rng: random.Random) -> str:
    words = text.split(" ")
    for _ in range(rng.randint(1, 6)):
        words.insert(rng.randrange(len(words) + 1), rng.choice(what))
    return " ".join(words)


def mojibake(text: str, rng: random.Random) -> str:
    return text.encode("utf-8").decode(rng.choice(("latin-1", "cp1252")), "replace")


def entities(text: str, rng: random.Random) -> str:
    return html.escape(text).replace(" ", "&nbsp;", rng.randint(0, 3))


def addresses(text: str, rng: random.Random) -> str:
    return _sprinkle(
        text, ["https://example.org/a/b?c=1", "(www.example.com)", "[1]", "[2, 3]", "mail@example.org"], rng
    )


def marks(text: str, rng: random.Random) -> str:
    return _sprinkle(
        text, ["#tag", "###", "...", "…", "•", "{", "lorem ipsum", "4711", "😀", "\u200b", "\u00ad", "ﬁ"], rng
    )


def repeated_lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    return "\n".join(lines + rng.choices(lines, k=rng.randint(1, 2 + len(lines) // 2)))


def repeated_words(text: str, rng: random.Random) -> str:
    words = text.split()
    start = rng.randrange(max(1, len(words) - 8))
    return " ".join([*words, *(words[start : start + rng.randint(1, 9)] * rng.randint(2, 12))])


def bullets(text: str, rng: random.Random) -> str:
    return "\n".join(f"{rng.choice('-*•')} {line}" for line in text.replace(". ", ".\n").split("\n"))


def ellipses(text: str, rng: random.Random) -> str:
    return "\n".join(f"{line}..." if rng.random() < 0.5 else line for line in text.replace(". ", ".\n").split("\n"))


def windows_breaks(text: str, rng: random.Random) -> str:
    return text.replace("\n", "\r\n")


def cut_short(text: str, rng: random.Random) -> str:
    return text[: rng.randint(0, 400)]


SPOILERS: tuple[Callable[[str, random.Random], str], ...] = (
    *(mojibake, entities, addresses, marks, repeated_lines),
    *(repeated_words, bullets, ellipses, windows_breaks, cut_short),
)


def write(folder: Path, data: Path, num: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part, size = 0, FILE_CHARACTERS
    out = None
    for text in documents(data, num):
        if size >= FILE_CHARACTERS:
            if out:
                out.close()
            out, size, part = (folder / f"part-{part:03d}.jsonl").open("w", encoding="utf-8"), 0, part + 1
        assert out is not None
        size += out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    if out:
        out.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--documents", type=int, default=50_000)
    args = parser.parse_args()
    write(args.folder, args.data, args.documents)
