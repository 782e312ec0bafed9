"""What is found of what was planted in real texts: exact copies, near copies, and values that identify somebody.

    python benchmarks/bench_planted.py [--data ../shared/data] [--documents 6000] [--datatrove PYTHON] [--out FOLDER]

Texts are consecutive passages of books and web articles, none twice. Of a sixth each there is an exact copy (other white space)
and a near copy (EDITS); another third holds values of VALUES, each in a sentence of its own. Copies are looked for by the clean
stage's own functions in this process. A document taken out as a near copy is right when it is one that was planted, or
is as similar as 0.75 (Jaccard, 5-grams of words) to the one that stays: books repeat themselves. With datatrove, its e-mail and IP
addresses are found in the same texts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.clusters import similarity  # noqa: E402

SIMILAR = 0.75


def passages(data: Path) -> Iterator[str]:
    """Of 150 to 500 words, in the order of their files."""
    rng = random.Random(0)
    texts = [path.read_text(encoding="utf-8") for path in sorted((data / "corpus_gutenberg_md").rglob("*.md"))]
    for file in sorted((data / "web_article_benchmark").rglob("ground-truth.json")):
        texts += [page["articleBody"] for page in json.loads(file.read_text(encoding="utf-8")).values()]
    for text in texts or list(topics.values()):
        words = re.findall(r"\S+\s*", text)
        while len(words) >= 150:
            size = rng.randint(150, 500)
            yield "".join(words[:size]).strip()
            words = words[size:]


# --- copies -----------------------------------------------------------------------------------------------------------


def other_space(text: str, rng: random.Random) -> str:
    return re.sub(r"\s+", lambda found: rng.choice(("\n", "  ", "\t", found[0])), text)


def other_words(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for i in rng.sample(range(len(words)), max(1, len(words) // 150)):
        words[i] = "elsewhere"
    return " ".join(words)


def head_line(text: str, rng: random.Random) -> str:
    return f"Posted by reader number {rng.randrange(10**6)} on a Monday morning\n\n{text}"


def foot_line(text: str, rng: random.Random) -> str:
    return f"{text}\n\nShared {rng.randrange(10**6)} times so far, be the next."


def cut_end(text: str, rng: random.Random) -> str:
    return text[: int(len(text) * rng.uniform(0.95, 0.99))]


def capitals(text: str, rng: random.Random) -> str:
    return re.sub(r"[,;:]", "", text).upper()


EDITS: tuple[Callable[[str, random.Random], str], ...] = (other_words, head_line, foot_line, cut_end, capitals)


class Planted(NamedTuple):
    text: str
    copy_of: int = -1
    edit: str = ""
    values: tuple[tuple[str, int, int], ...] = ()
    """Kind, first character, and the one behind the last."""


def plant(texts: Sequence[str]) -> list[Planted]:
    """Originals first, so that copies are what is taken out."""
    rng, sixth = random.Random(1), len(texts) // 6
    made = [Planted(text) for text in texts[: 4 * sixth]]
    made += [with_values(text, rng) for text in texts[4 * sixth :]]
    made += [Planted(other_space(texts[i], rng), i, "exact") for i in range(sixth)]
    for i in range(sixth, 2 * sixth):
        edit = EDITS[i % len(EDITS)]
        made.append(Planted(edit(texts[i], rng), i, edit.__name__))
    return made


# --- values -----------------------------------------------------------------------------------------------------------


def _digits(rng: random.Random, num: int) -> str:
    return "".join(rng.choices("0123456789", k=num))


def _letters(rng: random.Random, num: int) -> str:
    return "".join(rng.choices("abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789", k=num))


def email(rng: random.Random) -> str:
    local = _letters(rng, rng.randint(1, 12)) + rng.choice(("", ".b", "+news", "_x"))
    return f"{local}@{rng.choice(('mail', 'a-b', 'x.y'))}.{rng.choice(('org', 'co.uk', 'museum'))}"


def credit_card(rng: random.Random) -> str:
    body = rng.choice(("4", "51", "34", "6011")) + _digits(rng, 14)
    body = body[: 14 if body.startswith("34") else 15]
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in body[::-2])
    number = body + str(-(doubled + sum(map(int, body[-2::-2]))) % 10)
    join = rng.choice(("", " ", "-"))
    return join.join(re.findall(".{1,4}", number))


def iban(rng: random.Random) -> str:
    country, length = rng.choice((("DE", 18), ("FR", 23), ("GB", 18), ("NO", 11)))
    body = _digits(rng, length) if country != "GB" else "NWBK" + _digits(rng, length - 4)
    moved = "".join(str(int(character, 36)) for character in f"{body}{country}00")
    number = f"{country}{98 - int(moved) % 97:02}{body}"
    return rng.choice(("", " ")).join(re.findall(".{1,4}", number))


def ip_address(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return "2a00:1450:4001:" + ":".join(f"{rng.randrange(1, 2**16):x}" for _ in range(5))
    return f"{rng.choice((8, 81, 141, 185))}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}.{rng.randrange(1, 255)}"


def phone(rng: random.Random) -> str:
    return rng.choice((f"+49 30 {_digits(rng, 7)}", f"({rng.randint(201, 989)}) 555-{_digits(rng, 4)}",
                       f"+1-{rng.randint(201, 989)}-555-{_digits(rng, 4)}", f"020 7946 {_digits(rng, 4)}"))  # fmt: skip


def secret(rng: random.Random) -> str:
    return rng.choice((f"AKIA{_letters(rng, 16).upper()}", f"ghp_{_letters(rng, 36)}", f"hf_{_letters(rng, 34)}",
                       f"sk-proj-{_letters(rng, 40)}", f"xoxb-{_digits(rng, 12)}-{_letters(rng, 24)}",
                       f"eyJ{_letters(rng, 20)}.eyJ{_letters(rng, 40)}.{_letters(rng, 43)}"))  # fmt: skip


def national_id(rng: random.Random) -> str:
    """Spain's DNI, Brazil's CPF, the social security number of the United States."""
    number = int(_digits(rng, 8))
    digits = [int(digit) for digit in _digits(rng, 9)]
    for first in (10, 11):  # the weights of the first digit
        rest = sum(digit * (first - i) for i, digit in enumerate(digits)) % 11
        digits.append(0 if rest < 2 else 11 - rest)
    cpf = "".join(map(str, digits))
    return rng.choice((f"{number:08}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}",
                       f"{cpf[:3]}.{cpf[3:6]}.{cpf[6:9]}-{cpf[9:]}",
                       f"{rng.randint(1, 665):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"))  # fmt: skip


VALUES = {made.__name__: made for made in (email, credit_card, iban, ip_address, national_id, phone, secret)}


def with_values(text: str, rng: random.Random) -> Planted:
    kind = rng.choice(list(VALUES))
    value, sentence = VALUES[kind](rng), rng.choice(("Write to {} today.", "It is {}, she said.", "({})", "see: {}"))
    gaps = [found.end() for found in re.finditer(r"\s", text)]
    at = rng.choice(gaps)
    start = at + sentence.index("{}")
    return Planted(f"{text[:at]}{sentence.format(value)} {text[at:]}", values=((kind, start, start + len(value)),))


# --- what is found ----------------------------------------------------------------------------------------------------


def copies(documents: Sequence[Planted]) -> None:
    from cluster.storage import LocalStorage
    from pipelines.config import DataConfig, FilterConfig, SourceConfig
    from pipelines.data.record import parts
    from tests.unit.pipelines.data import world

    open_filters = FilterConfig(min_words=1, min_stop_words=0, max_top_2_gram_character_fraction=1,
                                min_alphabetic_word_fraction=0, max_symbol_word_ratio=9)  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "planted.jsonl"
        lines = [json.dumps({"id": str(i), "text": document.text}) + "\n" for i, document in enumerate(documents)]
        file.write_text("".join(lines), encoding="utf-8")
        source = SourceConfig(path=str(file), id_field="id")
        storage = LocalStorage(Path(made) / "storage")
        dataset = world.make(storage, DataConfig(sources=(source,), filters=open_filters))
        told = {int(row["id"]): row for _, table in parts(storage, dataset, ("id", "reason", "detail"))
                for row in table.to_pylist()}  # fmt: skip
    print("| planted | copies | found | recall |\n|---|---|---|---|")
    planted, found = Counter[str](), Counter[str]()
    for i, document in enumerate(documents):
        if document.copy_of >= 0 and told[document.copy_of]["reason"] in (
            None,
            "",
            "exact_duplicate",
            "near_duplicate",
        ):
            planted[document.edit] += 1
            found[document.edit] += told[i]["reason"] in ("exact_duplicate", "near_duplicate")
    for name in planted:
        print(f"| {name} | {planted[name]} | {found[name]} | {found[name] / planted[name]:.4f} |")
    near = {name: num for name, num in planted.items() if name != "exact"}
    recall = sum(found[name] for name in near) / sum(near.values())
    print(f"near copies altogether: recall {recall:.4f}")
    for reason in ("exact_duplicate", "near_duplicate"):
        out = [i for i in told if told[i]["reason"] == reason]
        wrong = [i for i in out if not is_right(documents, i, told[i]["detail"])]
        print(f"{reason}: {len(out)} documents, {len(out) - len(wrong)} of them rightly, "
              f"precision {1 - len(wrong) / len(out):.4f}")  # fmt: skip


def is_right(documents: Sequence[Planted], i: int, detail: str) -> bool:
    leader = int(detail.removeprefix("of "))
    if documents[i].copy_of == leader:
        return True
    return similarity(documents[i].text, documents[leader].text) >= SIMILAR


def values(documents: Sequence[Planted], python: str | None) -> None:
    import pyarrow as pa

    from pipelines.data.protect import DETECTORS, find

    found = find(pa.array([document.text for document in documents], pa.large_string()), tuple(DETECTORS))
    spans = [list(map(tuple, found[i][1])) if i in found else [] for i in range(len(documents))]
    print("| side | kind | planted | found | recall | told | precision |\n|---|---|---|---|---|---|---|")
    table("serinus", documents, spans, list(VALUES))
    if python:
        table("datatrove", documents, by_datatrove(documents, python), ["email", "ip_address"])


def table(side: str, documents: Sequence[Planted], spans: Sequence[Sequence[Any]], kinds: Sequence[str]) -> None:
    """Found is what is covered whole and under the right kind; right is what has characters in common with a planted
    value of that kind."""
    for kind in kinds:
        planted = [
            (i, start, end) for i, document in enumerate(documents) for k, start, end in document.values if k == kind
        ]
        covered = sum(any(k == kind and a <= start and end <= b for k, a, b in spans[i]) for i, start, end in planted)
        told = [(i, a, b) for i, found in enumerate(spans) for k, a, b in found if k == kind]
        right = sum(
            any(k == kind and a < end and start < b for k, start, end in documents[i].values) for i, a, b in told
        )
        print(f"| {side} | `{kind}` | {len(planted)} | {covered} | {covered / len(planted):.4f} | {len(told)} | "
              f"{right / max(1, len(told)):.4f} |")  # fmt: skip


def by_datatrove(documents: Sequence[Planted], python: str) -> list[list[tuple[str, int, int]]]:
    with tempfile.TemporaryDirectory() as made:
        lines = [json.dumps({"text": document.text}) + "\n" for document in documents]
        (Path(made) / "planted.jsonl").write_text("".join(lines), encoding="utf-8")
        command = [python, str(Path(__file__).with_name("peer_datatrove.py")), "personal", made]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        [(kind, start, end) for kind, start, end in spans] for spans in json.loads(printed.splitlines()[-1])["spans"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--documents", type=int, default=6_000, help="passages; copies come on top")
    parser.add_argument("--datatrove", metavar="PYTHON", help="interpreter of an environment with datatrove")
    parser.add_argument("--out", type=Path, help="folder to write the documents to as JSON lines, and nothing else")
    args = parser.parse_args()
    texts = list(dict.fromkeys(passages(args.data)))
    texts = random.Random(2).sample(texts, min(args.documents, len(texts)))
    documents = plant(texts)
    print(f"{len(documents)} documents, {sum(document.copy_of >= 0 for document in documents)} of them copies")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in documents]
        (args.out / "planted.jsonl").write_text("".join(lines), encoding="utf-8")
        return
    copies(documents)
    values(documents, args.datatrove)


if __name__ == "__main__":
    main()
