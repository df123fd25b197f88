"""May a step be said yet? Every number and name in it must have been read or derived.

The mechanical check behind the wait-k builder. It is deliberately literal. A number is available if
it was read (in digits, spelled, or as what a read word stands for: "half", "20%", "week"), if an
earlier step has it, or if this step computes it from available numbers. A name is available if it
was read. Whether a computation is right is not asked: that is no matter of time.

A number that some chunk states counts only if read or written out as a result. One that no chunk
states cannot have been copied from an unread one, so it may also be the unwritten result of one
operation on two available numbers ("he is left with 15"). Knowledge that no text has (a dog's legs)
is a violation: loaders that rely on it give their own ``needs``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from stretto.streams.examples.base import Example
from stretto.streams.quantities import (
    ALWAYS_KNOWN,
    CONVERSIONS,
    Number,
    numbers,
    quantities,
    same,
)

_NAME = re.compile(r"\b[A-Z][A-Za-z]+\b")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;]|\n)\W*$")
_OPERATORS = {
    "+": re.compile(r"\+|\bplus\b"),
    "*": re.compile(
        r"[*\u00d7]|(?<![A-Za-z])[xX](?![A-Za-z])|\btimes\b|\bmultiplied\b|^\W*\(|^[^.]?\s*of\s"
    ),
    "/": re.compile(r"[/\u00f7]|\bdivided\b"),
    "-": re.compile(r"(?<![A-Za-z])[-\u2013\u2212]|[-\u2013\u2212](?![A-Za-z])|\bminus\b"),
}
_SIGN = re.compile(r"=|\u2248")
_VERB = re.compile(r"\b(?:equals?|is|are|was|or|makes?|gives?|totals?|leaves?|leaving|so)\b")
_DATES = (
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May "
    "June July August September October November December"
)
_CALENDAR = frozenset(_DATES.split())
_MAX_GAP = 60
"""Characters between two numbers of one computation, at most."""
_MAX_RUN = 6
"""Numbers of one computation of which every bracketing is tried; the rest is taken in order."""

_CAPITALS = (
    "The A An He She It They We You I His Her Their Its Our My If In On At For So How What Who "
    "When Where Which Why Each Every Both All Some Any No Not There This That These Those Then "
    "Thus Therefore Hence Since Because And But Or Of To As By From With Without Before After "
    "During While Until Also Next Now Once Only Given Let Answer Is Was Are Were Does Do Did Has "
    "Have Had Can Could Will Would Should First Second Third Finally However One Two Three Four "
    "Five Six Seven Eight Nine Ten Half Total Adding True False Based Between Among Most Many"
)
_NOT_NAMES = frozenset(_CAPITALS.split())
"""Words with a capital that name nobody."""


@dataclass(frozen=True)
class Violation:
    """A step that says something too early.

    Attributes:
        step: index of the step.
        item: the number or name, as the step has it.
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
    return [
        Violation(i, item, read)
        for i, (_, read) in enumerate(zip(example.steps, chunks_read, strict=True))
        for item in sources.missing(i, read)
    ]


def chunks_needed(example: Example) -> tuple[int, ...]:
    """The smallest number of chunks with which each step passes; never decreasing.

    A step that no number of chunks satisfies (it uses knowledge the text does not have) waits for
    all of them.
    """
    sources, n = _Sources(example), len(example.chunks)
    needs = []
    for i in range(len(example.steps)):
        enough = (read for read in range(1, n) if not sources.missing(i, read))
        needs.append(next(enough, n))
    return tuple(accumulate(needs, max))


class _Sources:
    """What is available by the number of chunks read and steps said."""

    def __init__(self, example: Example) -> None:
        lower = set(re.findall(r"\b[a-z]+\b", " ".join(example.chunks)))
        found = [{name for name, _ in _capitalised(chunk)} for chunk in example.chunks]
        self._heard = [set[str](), *accumulate(found, set.union)]
        read = accumulate((quantities(chunk) for chunk in example.chunks), frozenset.union)
        self._read = [frozenset[float](), *read]
        said = accumulate((quantities(step) for step in example.steps), frozenset.union)
        self._said = [frozenset[float](), *said]
        # Any word has a capital at the start of a sentence; there only the source's names count.
        named = {name for name in self._heard[-1] if name.lower() not in lower}
        self._names = [
            {
                name
                for name, first in _capitalised(step)
                if name in named or (not first and _is_name(name, lower))
            }
            for step in example.steps
        ]
        self._stated = frozenset(n.value for chunk in example.chunks for n in numbers(chunk))
        self._steps = example.steps

    def missing(self, index: int, read: int) -> list[str]:
        """Numbers and names of a step that are not available."""
        step, found = self._steps[index], numbers(self._steps[index])
        known = ALWAYS_KNOWN | self._said[index] | self._read[read]
        unstated = {n.value for n in found if not same(n.value, self._stated)}
        while True:
            known = _with_results(step, found, self._stated, known)
            made = {v for v in unstated if not same(v, known) and _one_operation(v, known)}
            if not made:
                break
            known |= made
        absent = [number.text for number in found if not same(number.value, known)]
        return [*sorted(self._names[index] - self._heard[read]), *dict.fromkeys(absent)]


def _capitalised(text: str) -> Iterator[tuple[str, bool]]:
    """Words with a capital, and whether each begins a sentence."""
    for match in _NAME.finditer(text):
        if match[0] not in _NOT_NAMES:
            yield match[0], bool(_SENTENCE_START.search(text[: match.start()]))


def _is_name(word: str, lower: set[str]) -> bool:
    """Whether a capitalised word is a name: not one the source also writes small, nor a date's."""
    return word.lower() not in lower and word not in _CALENDAR


def _one_operation(value: float, known: frozenset[float]) -> bool:
    """Whether some sum, difference, product or quotient of two known numbers is the value."""
    for a in known:
        if a:
            partners = (value - a, value + a, a - value, value / a, value * a)
            if any(same(b, known) for b in partners if b > 0):
                return True
    return False


def _with_results(
    step: str, found: Sequence[Number], stated: frozenset[float], available: frozenset[float]
) -> frozenset[float]:
    """The available numbers, and what the step's equations make of them, until no more comes."""
    gaps = [step[a.end : b.start] for a, b in pairwise(found)]
    equals = [i for i, gap in enumerate(gaps) if _is_equality(gap)]
    known, size = available, -1
    while len(known) != size:
        size = len(known)
        for i in equals:
            known |= _results(found, gaps, i, stated, known)
    return known


def _is_equality(gap: str) -> bool:
    if len(gap) > _MAX_GAP:
        return False
    return bool(_SIGN.search(gap)) or (not _operator(gap) and bool(_VERB.search(gap)))


def _operator(gap: str) -> str | None:
    """The operation between two numbers that stand in one run, or None."""
    if len(gap) > _MAX_GAP or _SIGN.search(gap):
        return None
    return next((sign for sign, pattern in _OPERATORS.items() if pattern.search(gap)), None)


def _results(
    found: Sequence[Number],
    gaps: Sequence[str],
    i: int,
    stated: frozenset[float],
    known: frozenset[float],
) -> set[float]:
    """What the equation at gap ``i`` adds: the number next to it, once its other side is known."""
    first, last = i, i + 1
    while first > 0 and _operator(gaps[first - 1]):
        first -= 1
    while last < len(gaps) and _operator(gaps[last]):
        last += 1
    sides = (
        (found[first : i + 1], gaps[first:i], found[i + 1]),
        (found[i + 1 : last + 1], gaps[i + 1 : last], found[i]),
    )
    new: set[float] = set()
    for side, between, result in sides:
        values = [number.value for number in side]
        if not all(same(value, known) for value in values):
            continue
        made = _outcomes(values, [_operator(gap) or "" for gap in between])
        copied = same(result.value, stated)
        if len(side) > 1:
            derived = not copied or same(result.value, made)
        else:
            alone = last - first == 1
            derived = alone and not copied and same(result.value, _converted(values[0]))
        if derived:
            new.add(result.value)
    return new


def _converted(value: float) -> set[float]:
    """A value in other units: "300 cents = $3"."""
    return {value * factor for factor in CONVERSIONS} | {value / factor for factor in CONVERSIONS}


def _outcomes(values: Sequence[float], signs: Sequence[str]) -> set[float]:
    """What a run of numbers can come to, brackets anywhere, also as a part of or in hundreds."""
    plain = _bracketings(tuple(values[:_MAX_RUN]), tuple(signs[: _MAX_RUN - 1]))
    for value, sign in zip(values[_MAX_RUN:], signs[_MAX_RUN - 1 :], strict=True):
        plain = {made for a in plain for made in _apply(sign, a, value)}
    return plain | {value / 100 for value in plain} | {value * 100 for value in plain}


def _bracketings(values: tuple[float, ...], signs: tuple[str, ...]) -> set[float]:
    if len(values) == 1:
        return {values[0]}
    made: set[float] = set()
    for cut in range(1, len(values)):
        for a in _bracketings(values[:cut], signs[: cut - 1]):
            for b in _bracketings(values[cut:], signs[cut:]):
                made.update(_apply(signs[cut - 1], a, b))
    return made


def _apply(sign: str, a: float, b: float) -> tuple[float, ...]:
    if sign == "/":
        return (a / b,) if b else ()
    return ({"+": a + b, "-": a - b, "*": a * b}[sign],)
