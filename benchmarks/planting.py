"""Violations of causality, planted without knowing the check that is to find them."""

import re

from stretto.streams.examples import Example

# It looks at digits alone and knows nothing of the check: a number that stands in a step not
# as a result, in one chunk on, and nowhere before; and no number of a common unit or small count.
_DIGITS = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+")
_COMMON = {0, 1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 24, 25, 30, 52, 60, 100, 365, 1000, 2000}
_WORDS = {
    w: i
    for i, w in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    )
} | {"ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30}


def _values(text: str) -> set[float]:
    digits = {float(m.replace(",", "")) for m in _DIGITS.findall(text)}
    return digits | {_WORDS[w] for w in re.findall("[a-z]+", text.lower()) if w in _WORDS}


def plants(item: Example) -> list[tuple[int, list[int]]]:
    """Steps moved to before the first chunk that has one of their numbers, with the reads."""
    found = []
    for i, step in enumerate(item.steps[:-1]):
        for match in _DIGITS.finditer(step):
            value = float(match[0].replace(",", ""))
            at = next((j for j, c in enumerate(item.chunks) if value in _values(c)), 0)
            said = any(value in _values(earlier) for earlier in item.steps[:i])
            result = re.search(r"=\s*-?\$?\s*$", step[: match.start()])
            if at and not said and not result and value not in _COMMON:
                full = len(item.chunks)
                found.append((i, [at if k <= i else full for k in range(len(item.steps))]))
    return found
