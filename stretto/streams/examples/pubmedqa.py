"""PubMedQA (Jin et al. 2019, MIT): a question, the parts of an abstract, yes/no/maybe."""

import re
from typing import Any

from stretto.streams.examples.base import Example, final_step, join_chunks, sentences

_PART_WORDS = 60
_NOTE_WORDS = 12
_STOP = frozenset(
    re.findall(
        r"\w+",
        "the of and in to a with for was were is are by on that this from as an at or be been we "
        "it their than which not no did does do has have had between after before",
    )
)


def parse(row: dict[str, Any]) -> Example:
    """One row: the question, then each abstract part, cut to about 60 words.

    A step is a note on one part: the sentence closest to the question, cut short. It depends on
    the question and that part only, so it can be said as soon as the part has been read.
    """
    question = row["QUESTION"].strip()
    parts = [_shorten(part) for part in row["CONTEXTS"] if part.strip()]
    notes = [f"{_note(part, question)}\n" for part in parts]
    answer = row["final_decision"]
    return Example(
        id=f"pubmedqa-{row['id']}",
        task="pubmedqa",
        chunks=join_chunks([question, *parts]),
        steps=(*notes, final_step(answer)),
        answer=answer,
        needs=(*range(2, len(parts) + 2), len(parts) + 1),
    )


def _shorten(part: str) -> str:
    """Whole sentences from the start, then from the end, up to the limit of words."""
    kept: list[str] = []
    count = 0
    for sentence in sentences(" ".join(part.split())):
        words = sentence.split()
        if kept and count + len(words) > _PART_WORDS:
            break
        kept.append(" ".join(words[:_PART_WORDS]))
        count += len(words)
    return " ".join(kept)


def _note(part: str, question: str) -> str:
    asked = _words(question)
    best = max(sentences(part), key=lambda s: len(_words(s) & asked) / (4 + len(s.split())))
    words = best.split()
    return " ".join(words[:_NOTE_WORDS]).rstrip(".,;:")


def _words(text: str) -> set[str]:
    return {w for w in re.findall(r"[a-z]{3,}", text.lower()) if w not in _STOP}
