"""Conditions side by side: means with intervals, differences, and the effects of a factorial.

The unit is the run, or, where runs of one seed are compared, the seed: runs of a seed share its
draws, so a seed counts once, however many cells it was played in.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from stretto.commons import stats
from stretto.commons.stats import Interval
from stretto.commons.table import FORMS, MEASURES, Row, Table, label
from stretto.errors import InputError


@dataclass(frozen=True)
class Group:
    """One condition.

    Attributes:
        condition: in words.
        form: ``strict`` or ``legacy``.
        runs: how many.
        seeds: how many different ones.
        values: measure -> mean with its interval, of the runs in which it is known; of survival
            a share (Wilson). None if it is known in none, or in other runs in the other form.
        zero_months: share of runs with a month in which nobody got anything; None if not known.
    """

    condition: str
    form: str
    runs: int
    seeds: int
    values: dict[str, Interval | None]
    zero_months: float | None


@dataclass(frozen=True)
class Contrast:
    """How much a measure differs.

    Attributes:
        what: against what, in words.
        form: of the measure.
        measure: its name.
        value: of the difference, with its interval; its ``runs`` are pairs or seeds if paired.
        p: two-sided, by permutation; None with fewer than two pairs or runs a side.
        holm: the same, corrected for all tests of the list it stands in.
        paired: by seed.
    """

    what: str
    form: str
    measure: str
    value: Interval
    p: float | None
    holm: float | None
    paired: bool


def groups(table: Table) -> list[Group]:
    """Every condition in both forms."""
    found = []
    for name, rows in table.conditions.items():
        zeros = [row.zero_months for row in rows if row.zero_months is not None]
        both = {form: {m: average(rows, form, m) for m in MEASURES} for form in FORMS}
        for form, means in both.items():
            for measure, value in means.items():
                strict = both["strict"][measure]
                if value is not None and (strict is None or strict.runs != value.runs):
                    means[measure] = None
            found.append(Group(
                name, form, len(rows), len({row.seed for row in rows if row.seed is not None}),
                means, float(np.mean([zero > 0 for zero in zeros])) if zeros else None,
            ))  # fmt: skip
    return found


def differences(
    table: Table, baseline: str = "", measures: Iterable[str] = (), form: str = "strict"
) -> list[Contrast]:
    """Every other condition against the baseline, by seed where both have the same ones.

    Args:
        table: of runs.
        baseline: a condition in words; the first if empty.
        measures: by name; all if none.
        form: of them.

    Raises:
        InputError: there is no such condition.
    """
    conditions = table.conditions
    baseline = baseline or next(iter(conditions))
    if baseline not in conditions:
        raise InputError(f"baseline: no condition {baseline!r}; there are: {'; '.join(conditions)}")
    found = []
    for name, rows in conditions.items():
        if name != baseline:
            for measure in measures or MEASURES:
                pair = _paired(conditions[baseline], rows, form, measure)
                if pair is not None:
                    found.append(_contrast(f"{name} against {baseline}", form, measure, *pair))
    return corrected(found)


def effects(
    table: Table, measures: Iterable[str] = (), form: str = "strict"
) -> tuple[list[Contrast], str]:
    """Main effects and two-way interactions of a full factorial.

    A main effect is the mean difference between a level and the factor's first one, over all
    levels of the others. An interaction is how much that difference differs between a level of
    another factor and its first one. Both are computed within each seed, then over seeds.

    Returns:
        The effects; and why there are none, or which seeds were left out, or an empty text.
    """
    factors = {name: levels for name, levels in table.factors.items() if len(levels) > 1}
    if not factors:
        return [], "Nothing was varied."
    cells: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in table.rows:
        if row.seed is None or set(row.condition) != set(table.factors):
            return [], "Not a factorial: some runs lack a seed or a factor."
        cell = cells.setdefault(tuple(str(row.condition[name]) for name in factors), {})
        if row.seed in cell:
            return [], "Not a factorial: a seed stands twice in one condition."
        cell[row.seed] = row
    levels = list(factors.values())
    whole = [tuple(map(str, cell)) for cell in itertools.product(*levels)]
    if missing := [cell for cell in whole if cell not in cells]:
        return [], f"Not a full factorial: {len(missing)} of {len(whole)} conditions are missing."
    seeds = sorted(set.intersection(*(set(cell) for cell in cells.values())))
    every = {seed for cell in cells.values() for seed in cell}
    if len(seeds) < 2:
        return [], "Fewer than two seeds were played in every condition."
    told = f"{len(every) - len(seeds)} seeds are not in every condition and are left out. " * (
        len(seeds) < len(every)
    )
    found = []
    for measure in measures or MEASURES:
        grid = _grid(cells, whole, seeds, form, measure, [len(one) for one in levels])
        if grid is None:
            told += f"No effects on {MEASURES[measure].title}: undefined in some runs. "
            continue
        for what, by_seed in _effects(grid, list(factors), levels):
            zeros = np.zeros(len(seeds))
            found.append(_contrast(what, form, measure, zeros, by_seed, True))
    return corrected(found), told.strip()


def corrected(found: Sequence[Contrast]) -> list[Contrast]:
    """Contrasts with Holm's correction over all of them that have a p-value."""
    tested = [one.p for one in found if one.p is not None]
    adjusted = iter(holm(tested))
    return [replace(one, holm=None if one.p is None else next(adjusted)) for one in found]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for many tests (Holm 1979), in the order given."""
    adjusted, most = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        most = max(most, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = most
    return adjusted


def average(rows: Sequence[Row], form: str, measure: str) -> Interval | None:
    """Mean of the runs in which a measure is known, of survival the rate; None if in none."""
    known = tuple(v for row in rows if (v := row.values(form)[measure]) is not None)
    if not known:
        return None
    if measure == "survived":
        return stats.proportion(int(sum(known)), len(known))
    return _mean(known)


@lru_cache(maxsize=4096)
def _mean(known: tuple[float, ...]) -> Interval:
    """Both forms of most measures are the same numbers, and resampling takes time."""
    return stats.mean(known)


def _paired(
    first: Sequence[Row], second: Sequence[Row], form: str, measure: str
) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Both groups' values; by seed if every seed is known and unique and some are shared."""
    sides = [
        [(row.seed, v) for row in rows if (v := row.values(form)[measure]) is not None]
        for rows in (first, second)
    ]
    if not all(sides):
        return None
    by = [dict(side) for side in sides]
    unique = all(len(one) == len(side) for one, side in zip(by, sides, strict=True))
    seeds = sorted(seed for seed in by[0] if seed is not None and seed in by[1])
    if unique and len(seeds) >= 2 and None not in by[0] and None not in by[1]:
        a, b = (np.array([one[seed] for seed in seeds]) for one in by)
        return a, b, True
    a, b = (np.array([v for _, v in side]) for side in sides)
    return a, b, False


def _contrast(
    what: str, form: str, measure: str, a: np.ndarray, b: np.ndarray, paired: bool
) -> Contrast:
    found = stats.difference(a.tolist(), b.tolist(), paired=paired)
    p = None if np.isnan(found.p) else found.p
    return Contrast(what, form, measure, found.value, p, None, paired)


def _grid(
    cells: dict[tuple[str, ...], dict[int, Row]], whole: list[tuple[str, ...]], seeds: list[int],
    form: str, measure: str, shape: list[int],
) -> np.ndarray | None:  # fmt: skip
    """Values by the level of each factor, then seed; None if one is undefined."""
    values = [[cells[cell][seed].values(form)[measure] for seed in seeds] for cell in whole]
    if any(value is None for cell in values for value in cell):
        return None
    return np.array(values, float).reshape(*shape, len(seeds))


def _effects(
    grid: np.ndarray, names: list[str], levels: list[list[Any]]
) -> Iterable[tuple[str, np.ndarray]]:
    """In words, and by seed."""
    axes = range(len(names))

    def rest(*kept: int) -> np.ndarray:
        """Means over the other factors, the kept ones first, seeds last."""
        return grid.mean(axis=tuple(axis for axis in axes if axis not in kept))

    def said(axis: int, level: int) -> str:
        return label({names[axis]: levels[axis][level]})

    for a in axes:
        means = rest(a)
        for i in range(1, len(levels[a])):
            yield f"{said(a, i)} against {said(a, 0)}", means[i] - means[0]
    for a, b in itertools.combinations(axes, 2):
        means = rest(a, b)
        for i, j in itertools.product(range(1, len(levels[a])), range(1, len(levels[b]))):
            gap = (means[i, j] - means[0, j]) - (means[i, 0] - means[0, 0])
            yield f"{said(a, i)} x {said(b, j)}", gap
