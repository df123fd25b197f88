"""T0 instances (P3, Apache-2.0 collection): an instruction with its text, and the completion."""

import hashlib
from typing import Any

from stretto.streams.examples.base import Example, join_chunks, sentences

_MAX_WORDS = 160


def parse(row: dict[str, Any]) -> Example | None:
    """One row, or None if it is long or empty. The answer waits for the whole text."""
    prompt = " ".join(row["prompt"].split())
    completion = row["completion"].removesuffix("<|endoftext|>").strip()
    if not completion or len(prompt.split()) > _MAX_WORDS or len(completion.split()) > 40:
        return None
    chunks = join_chunks(sentences(prompt))
    digest = hashlib.sha1(f"{prompt}\0{completion}".encode()).hexdigest()[:10]
    return Example(
        id=f"t0-{digest}",
        task="t0",
        chunks=chunks,
        steps=(completion,),
        answer=completion,
        needs=(len(chunks),),
    )
