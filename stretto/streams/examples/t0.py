"""T0 instances (P3, Apache-2.0 collection): an instruction with its text, and the completion.

A prompt is free text made from some hundred templates, so where its question stands can only be
seen from its form. Two forms are plain: a line that begins with "Question:", and a prompt that ends
with a question mark, save for options and "Answer:". There the question moves to the front with the
line that leads in to it; any other prompt keeps its order.
"""

import hashlib
import re
from typing import Any

from stretto.streams.examples.base import Example, join_chunks, sentences

_MAX_WORDS = 160
_LABEL = re.compile(r"question\s*\d*\s*[:.]\s*(.*)", re.IGNORECASE)
_AFTER = re.compile(
    r"[-*•]|\(?[A-H][.):]\s|(?:yes or no|true or false)\.?$|(?:possible |answer )?answers?:"
    r"|(?:[\w ]+ )?(?:options|choices|answer|question):$",
    re.IGNORECASE,
)
"""How lines after a question begin that belong to it: options, and what calls for the answer."""

_ABBREVIATION = re.compile(r"\b[A-Z]\w{0,3}\.$")
"""A sentence cannot be told from what follows "Teri W." or "Warner Bros."."""


def parse(row: dict[str, Any]) -> Example | None:
    """One row, or None if it is long or empty. The answer waits for the whole text."""
    prompt = " ".join(row["prompt"].split())
    completion = row["completion"].removesuffix("<|endoftext|>").strip()
    if not completion or len(prompt.split()) > _MAX_WORDS or len(completion.split()) > 40:
        return None
    question, rest = split_question(row["prompt"])
    parts = [" ".join(question.split())] if question else []
    chunks = join_chunks([*parts, *sentences(" ".join(rest.split()))])
    digest = hashlib.sha1(f"{prompt}\0{completion}".encode()).hexdigest()[:10]
    return Example(
        id=f"t0-{digest}",
        task="t0",
        chunks=chunks,
        steps=(completion,),
        answer=completion,
        needs=(len(chunks),),
    )


def split_question(prompt: str) -> tuple[str, str]:
    """The question of a prompt with its lead-in, and the rest; no question if none can be told.

    Args:
        prompt: with its line breaks, which show the parts.
    """
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    labels = [(i, match[1]) for i, line in enumerate(lines) if (match := _LABEL.match(line))]
    if labels:
        start, said = labels[0]
        end = start + (1 if said else 2)  # a label alone stands above its question
        before, question = lines[:start], " ".join(lines[start:end])
        found = len(labels) == 1 and end <= len(lines)
    else:
        end = len(lines)
        while end and _AFTER.match(lines[end - 1]):
            end -= 1
        before, question = _last_question(lines[:end])
        found = bool(question)
    rest = "\n".join([*before, *lines[end:]])
    return (question, rest) if found and before else ("", prompt)


def _last_question(lines: list[str]) -> tuple[list[str], str]:
    """What comes before the question that ends the lines, and the question, or "".

    Not told: a prompt with another question mark before, a question inside quotation marks, and
    one of which it is not sure where it begins.
    """
    if not lines:
        return [], ""
    *first, last = sentences(lines[-1])
    before = lines[:-1] + ([" ".join(first)] if first else [])
    told = (
        last.endswith("?")
        and re.search(r"""[.!?"'”]\s*\?$""", last) is None
        and not (last[0].islower() or last[0].isdigit())
        and not (first and _ABBREVIATION.search(first[-1]))
        and last.count('"') % 2 == 0
        and not any("?" in line for line in before)
    )
    lead = before[-1] if before and not first else ""
    if told and lead.endswith(":") and len(sentences(lead)) == 1:
        last = f"{before.pop()} {last}"
    return before, last if told else ""
