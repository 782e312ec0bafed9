"""The one record that crosses every boundary of the clean stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NotDocument = Literal[
    "unknown_format",
    "unreadable",
    "binary",
    "broken_json",
    "missing_text",
    "no_main_text",
    "no_text",
    "too_large",
    "http_status",
]
"""Why a file or a line could not become a document."""
DropReason = Literal[
    NotDocument,
    # the document is not what was asked for
    "empty",
    "too_few_words",
    "too_many_words",
    "mean_word_length",
    "symbols",
    "bullet_lines",
    "ellipsis_lines",
    "few_alphabetic_words",
    "duplicate_lines",
    "duplicate_line_characters",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    "lorem_ipsum",
    "curly_bracket",
    "too_few_sentences",
    "unterminated_lines",
    "short_lines",
    "list_like",
    "repeated_2_grams",
    "repeated_3_grams",
    "repeated_4_grams",
    "duplicate_5_grams",
    "duplicate_6_grams",
    "duplicate_7_grams",
    "duplicate_8_grams",
    "duplicate_9_grams",
    "duplicate_10_grams",
    "language",
    "language_uncertain",
    "few_stop_words",
    "blocked_word",
    "classifier_score",
    "perplexity",
    "personal_data",
    # an evaluation set has it too
    "contaminated",
    # the document is there already
    "exact_duplicate",
    "near_duplicate",
    # so are most of its lines or paragraphs
    "repeated_lines",
    "repeated_paragraphs",
    # a person asked for it
    "forgotten",
]


@dataclass(frozen=True)
class Document:
    """A text as it was read, or a place in the input that could not become one (`reason` says why).

    What has a reason but no text still lies where it was: `source`, `position` and `detail` lead there.
    """

    id: str
    text: str
    source: str
    """Name of the input file, relative to the source that the recipe names."""
    position: int
    """Line (JSONL), element (JSON), row (Parquet) or record (WARC), from 1; 1 for a file that is one document."""
    reason: DropReason | None = None
    detail: str = ""
    """For people: what was found, with its unit."""
    span: tuple[int, int] | None = None
    """Where it lies in the file, in bytes of what the compression holds; None where the format has no such place (Parquet, an
    element of a JSON array) or the whole could not be read. In web archives bytes of the file as it lies there: what a CDX
    index tells, too."""
    origin: str = ""
    """Of a web archive's record: its address and WARC-Record-ID. Of others what `origin_field` names, or nothing."""
