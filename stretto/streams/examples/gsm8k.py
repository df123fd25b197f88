"""GSM8K (Cobbe et al. 2021, MIT): word problems with worked lines."""

import hashlib
import re
from typing import Any

from stretto.streams.examples.base import Example, final_step, join_chunks, sentences

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def parse(row: dict[str, Any]) -> Example:
    """One row; the question sentence is moved to the front, so that a reader knows what to seek."""
    parts = sentences(row["question"])
    asked = max((i for i, p in enumerate(parts) if p.endswith("?")), default=len(parts) - 1)
    parts.insert(0, parts.pop(asked))
    solution, _, answer = row["answer"].partition("####")
    answer = answer.strip().replace(",", "")
    lines = [_CALCULATOR.sub("", line).strip() for line in solution.strip().splitlines()]
    steps = [f"{line}\n" for line in lines if line]
    digest = hashlib.sha1(row["question"].encode()).hexdigest()[:10]
    return Example(
        id=f"gsm8k-{digest}",
        task="gsm8k",
        chunks=join_chunks(parts),
        steps=(*steps, final_step(answer)),
        answer=answer,
    )
