"""May a step be said yet? Every number and name in it must have been read or derived.

The mechanical check behind the wait-k builder. It is deliberately literal: a number is available if
it was read, if an earlier step has it, or if this step computes it from available numbers; a name
if it was read. Digits and spelled numbers count alike.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from stretto.streams.examples.base import Example

_SPELLED = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "hundred": 100, "half": 2, "twice": 2, "double": 2, "thrice": 3,
    "triple": 3, "third": 3, "quarter": 4, "dozen": 12, "pair": 2, "once": 1, "week": 7,
}  # fmt: skip

_COMMON = frozenset({0, 1, 2, 3, 4, 7, 10, 12, 24, 30, 50, 52, 60, 100, 365, 1000})
"""Numbers anybody knows: units of time, per cent, dozens, small counts."""

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_NAME = re.compile(r"\b[A-Z][a-z]+\b")
_RESULT = re.compile(r"=\s*-?\$?\s*(\d[\d,]*(?:\.\d+)?|\.\d+)")


@dataclass(frozen=True)
class Violation:
    """A step that says something too early.

    Attributes:
        step: index of the step.
        item: the number or name.
        chunks_read: how many chunks had been read.
    """

    step: int
    item: str
    chunks_read: int


def check(example: Example, chunks_read: Sequence[int]) -> list[Violation]:
    """What each step says before it can be known.

    Args:
        example: source and solution.
        chunks_read: for each step, how many chunks had been read when it began.
    """
    sources = _Sources(example)
    found = []
    for i, (step, read) in enumerate(zip(example.steps, chunks_read, strict=True)):
        found += [Violation(i, item, read) for item in sources.missing(step, i, read)]
    return found


def chunks_needed(example: Example) -> tuple[int, ...]:
    """The smallest number of chunks with which each step passes; never decreasing.

    A step that no number of chunks satisfies (it uses knowledge the text does not have) waits for
    all of them.
    """
    sources, n = _Sources(example), len(example.chunks)
    needs = []
    for i, step in enumerate(example.steps):
        enough = (read for read in range(1, n) if not sources.missing(step, i, read))
        needs.append(next(enough, n))
    return tuple(accumulate(needs, max))


class _Sources:
    """Numbers and names by the number of chunks read and steps said."""

    def __init__(self, example: Example) -> None:
        self._numbers = [set(_numbers(chunk)) for chunk in example.chunks]
        self._names = [_names(chunk) for chunk in example.chunks]
        self._said = [set(_numbers(step)) for step in example.steps]
        self._known_names = set().union(*self._names)

    def missing(self, step: str, index: int, read: int) -> list[str]:
        """Numbers and names of a step that are not available."""
        names = set().union(*self._names[:read])
        absent = sorted((_names(step) & self._known_names) - names)
        known = set(_COMMON).union(*self._numbers[:read], *self._said[:index])
        # Left to right: what a result needs stands before its "=".
        results = {_value(m[1]) for m in _RESULT.finditer(step)}
        absent += [
            f"{number:g}" for number in _numbers(step) if number not in known | results
        ]
        return absent


def _value(text: str) -> float:
    return float(text.replace(",", "").rstrip("."))


def _numbers(text: str) -> list[float]:
    digits = [_value(match) for match in _NUMBER.findall(text)]
    words = re.findall(r"[a-z]+", text.lower())
    return digits + [float(_SPELLED[word]) for word in words if word in _SPELLED]


def _names(text: str) -> set[str]:
    """Capitalised words; common first words are no harm, since only words of the source count."""
    return {word for word in _NAME.findall(text) if word not in _FIRST_WORDS}


_FIRST_WORDS: frozenset[str] = frozenset(
    "The A An He She It They His Her Their If In On At For So How What Who When Each Every After "
    "Before All There This That Then And But Of To As By From With Answer Is Was Does Do Did One "
    "Two Three Four Five Six".split()
)


def planted(example: Example, clean: Iterable[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Ways to break an example: each moves one step to before the chunk it cannot do without.

    Args:
        example: source and solution.
        clean: chunks read before each step, in order.

    Returns:
        pairs of the step moved and the chunks read before each step in the broken version.
    """
    clean = tuple(clean)
    return [
        (i, (*(min(c, need - 1) for c in clean[:i]), need - 1, *clean[i + 1 :]))
        for i, need in enumerate(chunks_needed(example))
        if need > 1 and _Sources(example).missing(example.steps[i], i, need - 1)
    ]
