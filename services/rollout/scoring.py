"""What an answer is worth, 0 to 1, by what was expected. Pure; models that judge are in llm_judge.py."""

from __future__ import annotations

from collections.abc import Sequence

from services.config import Scorer


def score(scorer: Scorer, text: str, answers: Sequence[str]) -> float:
    """The score of an answer; for `choice`, `text` is the chosen one and `answers` the right one."""
    match scorer:
        case "exact" | "choice":
            return float(text.strip() in {answer.strip() for answer in answers})
        case "contains":
            return float(any(answer.strip().casefold() in text.casefold() for answer in answers))
        case "regex":
            return float(any(_found(pattern, text) for pattern in answers))
        case "chrf":
            return _chrf(text, answers)
        case "judge":
            raise AssertionError("a judge compares two answers")


def check_pattern(pattern: str) -> str | None:
    """What RE2 finds wrong with it; None when nothing."""
    try:
        _found(pattern, "")
    except ValueError as error:
        return str(error)
    return None


def _found(pattern: str, text: str) -> bool:
    """By RE2, as Arrow carries it: linear in the text whatever the pattern, so that no item can hold up the others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return bool(pc.match_substring_regex(pa.array([text]), pattern)[0].as_py())


def _chrf(text: str, answers: Sequence[str]) -> float:
    """Character n-grams up to 6, beta 2 (Popovic 2015, "chrF: character n-gram F-score"): sacrebleu's defaults."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    best = max(metric.sentence_score(text.strip(), [answer.strip()]).score for answer in answers)
    return min(1.0, float(best) / 100)
