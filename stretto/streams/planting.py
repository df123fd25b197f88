"""Wrong results for the audit to find."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """An answer with one wrong step.

    Attributes:
        steps: all steps.
        index: the wrong one.
        correction: what should stand there.
    """

    steps: tuple[str, ...]
    index: int
    correction: str


_EQUATION = re.compile(
    r"(?P<term>[-+*/x\u00d7().,$%\d\s]*)(?P<equals>\s*=\s*\$?)(?P<number>-?\d+(?:\.\d+)?)(?![\d,]*\d)"
)
_LAST_NUMBER = re.compile(r"(?P<label>^|total )(?P<number>-?\d+)$")
_VERDICT = re.compile(r"\b(yes|no)$")
_OPPOSITE = {"yes": "no", "no": "yes"}


def plant_error(steps: Sequence[str], rng: random.Random) -> Planted | None:
    """Alter one result: a number behind ``=``, a total, a yes or no. None if there is none.

    The last step, the answer, is left as it is.
    """
    places = [(i, edit) for i, step in enumerate(steps[:-1]) if (edit := _edit(step, rng))]
    if not places:
        return None
    index, (wrong, correction) = rng.choice(places)
    return Planted((*steps[:index], wrong, *steps[index + 1 :]), index, correction)


def _edit(step: str, rng: random.Random) -> tuple[str, str] | None:
    """The step with a wrong result, and the right one."""
    line = step.rstrip("\n")
    if match := _EQUATION.search(line):
        correction = match[0].strip(" .,").removeprefix("=").lstrip()
    elif match := _LAST_NUMBER.search(line):
        correction = match[0]
    elif match := _VERDICT.search(line):
        return _replaced(step, match.span(), _OPPOSITE[match[0]]), line
    else:
        return None
    return _replaced(step, match.span("number"), _other_number(match["number"], rng)), correction


def _replaced(text: str, span: tuple[int, int], new: str) -> str:
    return text[: span[0]] + new + text[span[1] :]


def _other_number(number: str, rng: random.Random) -> str:
    """Near the right one, so that only checking tells: off by a bit, or one digit changed."""
    if "." in number or rng.random() < 0.5:
        i = rng.choice([i for i, char in enumerate(number) if char.isdigit()])
        lowest = 1 if i == 0 and len(number) > 1 else 0
        digits = [d for d in range(lowest, 10) if str(d) != number[i]]
        return number[:i] + str(rng.choice(digits)) + number[i + 1 :]
    offset = rng.choice([-10, -3, -2, -1, 1, 2, 3, 10])
    changed = int(number) + offset
    return str(changed if changed >= 0 or number.startswith("-") else int(number) - offset)
