"""Choosing among samples of code by what running them tells."""

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stretto.agents.feedback import Test, unit_tests
from stretto.agents.stream import CellSession
from stretto.errors import InputError

By = Literal["tests", "majority", "codet", "verifier", "logprob"]
WAYS: tuple[By, ...] = ("tests", "majority", "codet", "verifier", "logprob")


@dataclass(frozen=True)
class Sample:
    """A program that a model wrote.

    Attributes:
        code: its text.
        logprob: of the text given the task, natural logarithm; None where it is not known.
        meta: whatever belongs to it.
    """

    code: str
    logprob: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


Verifier = Callable[[Sample, tuple[str, ...]], Awaitable[float]]


@dataclass(frozen=True)
class Selection:
    """Samples in order, best first: ``order`` holds their indices, ``grades`` a grade each.

    Equal grades stand in the order of their log-probability, then of their index.
    """

    by: By
    order: tuple[int, ...]
    grades: tuple[float, ...]
    cells: int

    @property
    def best(self) -> int:
        """Index of the one to take."""
        return self.order[0]


async def select(
    samples: Sequence[Sample],
    by: By,
    *,
    session: CellSession | None = None,
    tests: Sequence[Test] = (),
    inputs: Sequence[str] = (),
    verifier: Verifier | None = None,
) -> Selection:
    """Order samples.

    Args:
        samples: one at least.
        by: ``tests``, the share of visible tests that pass; ``majority``, how many samples give
            the same values of ``inputs``; ``codet``, the number of samples that pass the same
            tests times the number of these tests (tests that a model wrote, some of them wrong);
            ``verifier``, its probabilities, added up over samples of the same values where there
            are inputs; ``logprob``.
        session: a sandbox's session, forked for every run; needed wherever something runs.
        tests: for ``tests`` and ``codet``; hidden ones are left out.
        inputs: expressions, such as ``solve(3)``, evaluated after the sample has run.
        verifier: probability that a sample is right, told its values of ``inputs``.

    Raises:
        InputError: no samples, no such way, or what it needs is missing.
    """
    _check(samples, by, session, tests, inputs, verifier)
    cells = 0
    grades = [0.0] * len(samples)
    if by == "logprob":
        grades = [_logprob(sample) for sample in samples]
    elif by in ("tests", "codet"):
        assert session is not None
        visible = [test for test in tests if not test.hidden]
        passed = []
        for sample in samples:
            right = []
            for test in visible if by == "codet" else ():
                right.append((await unit_tests(sample.code, [test], session)).value == 1.0)
                cells += 2
            if by == "tests":
                told = await unit_tests(sample.code, visible, session)
                right, cells = [told.value], cells + told.cost
            passed.append(tuple(right))
        grades = [sum(right) for right in passed] if by == "tests" else _agreement(passed)
    else:
        values = [await _values(sample, inputs, session) for sample in samples]
        cells = sum(1 + len(told or ()) for told in values) if inputs else 0
        grades = await _by_values(samples, values, verifier if by == "verifier" else None)
    order = sorted(range(len(samples)), key=lambda i: (-grades[i], -_logprob(samples[i]), i))
    return Selection(by, tuple(order), tuple(grades), cells)


def _check(
    samples: Sequence[Sample],
    by: str,
    session: CellSession | None,
    tests: Sequence[Test],
    inputs: Sequence[str],
    verifier: Verifier | None,
) -> None:
    if by not in WAYS:
        raise InputError(f"no selection by {by!r}; choose from {', '.join(WAYS)}")
    if not samples:
        raise InputError("nothing to select from: give one sample at least")
    if by in ("tests", "codet") and not any(not test.hidden for test in tests):
        raise InputError(f"selection by {by} needs visible tests")
    if by == "majority" and not inputs:
        raise InputError("selection by majority needs inputs, such as solve(3)")
    if by == "verifier" and verifier is None:
        raise InputError("selection by verifier needs a verifier")
    if session is None and (by in ("tests", "codet", "majority") or inputs):
        raise InputError(f"selection by {by} runs code and needs a sandbox's session")
    if by == "logprob" and any(sample.logprob is None for sample in samples):
        raise InputError("selection by logprob: a sample has none")


def _logprob(sample: Sample) -> float:
    return -math.inf if sample.logprob is None else sample.logprob


def _agreement(passed: Sequence[tuple[bool, ...]]) -> list[float]:
    """CodeT: samples that pass the same tests, times those tests."""
    groups: dict[tuple[bool, ...], int] = defaultdict(int)
    for right in passed:
        groups[right] += 1
    return [float(groups[right] * sum(right)) for right in passed]


async def _values(
    sample: Sample, inputs: Sequence[str], session: CellSession | None
) -> tuple[str, ...] | None:
    """What a sample gives for each input; None if it does not run."""
    if not inputs or session is None:
        return ()
    copy = await session.fork()
    try:
        if not (await copy.exec(sample.code)).ok:
            return None
        told = []
        for text in inputs:
            single = await copy.fork()  # so that one input leaves nothing for the next
            try:
                result = await single.exec(text)
            finally:
                await single.close()
            failed = result.error.type if result.error else str(result.limit)
            told.append(str(result.value_repr) if result.ok else f"raises {failed}")
        return tuple(told)
    finally:
        await copy.close()


async def _by_values(
    samples: Sequence[Sample],
    values: Sequence[tuple[str, ...] | None],
    verifier: Verifier | None,
) -> list[float]:
    """Weights of samples, added up over those with the same values; none for what fails."""
    weights = []
    for sample, told in zip(samples, values, strict=True):
        weights.append(1.0 if verifier is None or told is None else await verifier(sample, told))
    if all(told == () for told in values):
        return weights
    totals: dict[tuple[str, ...], float] = defaultdict(float)
    for weight, told in zip(weights, values, strict=True):
        if told is not None and not all(text.startswith("raises ") for text in told):
            totals[told] += weight
    return [totals.get(told, 0.0) if told is not None else 0.0 for told in values]
