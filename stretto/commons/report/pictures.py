"""The pictures of a report. Imported late: needs matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from stretto.commons import stats
from stretto.commons.compare import Group
from stretto.commons.game import Game
from stretto.commons.resource import share
from stretto.commons.table import MEASURES, Row, Table, label
from stretto.plots import BLUE, COLOURS, GREY, ORANGE, RED, legend, panels

SHOWN = ("survived", "survival_time", "gain", "efficiency", "equality", "over_usage")
PER_PAGE = 30  # conditions in one picture of points
PANELS = 12
_LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Attributes:
        name: short, for anchors.
        title: what it is.
        note: how to read it.
        figure: of matplotlib.
    """

    name: str
    title: str
    note: str
    figure: Any


def stock_pictures(conditions: Mapping[str, Sequence[Row]]) -> Iterator[Picture]:
    """Stock over months, a panel a condition, on one scale."""
    known = {name: rows for name, rows in conditions.items() if all(r.stock for r in rows)}
    for number, names in enumerate(_pages(list(known), PANELS), 1):
        horizon = max(row.horizon for name in names for row in known[name])
        figure, axes = panels(names, 2.6, sharex=True, sharey=True)
        for axis, name in zip(axes, names, strict=False):
            _stock(axis, known[name], horizon)
            axis.set_title(_short(name, 46), fontsize="medium")
            axis.set_xlim(0.5, horizon + 0.5)
            axis.set_ylim(0, 1.05 * max(max(r.stock) for n in names for r in known[n]))
        _outer(axes[: len(names)], "month", "stock, units")
        legend(figure, *axes)
        yield Picture(
            f"stock-{number}", "Stock at the start of each month",
            "Thin lines: runs. Thick line: mean over runs with its pointwise 95 % bootstrap "
            "interval; after a collapse a stock counts as 0.",
            figure,
        )  # fmt: skip


def survival_pictures(table: Table) -> Iterator[Picture]:
    """Kaplan-Meier curves: together if they are few, models together, else a panel each."""
    shown = _curves(table)
    looks = {name: i for i, name in enumerate(dict.fromkeys(n for c in shown.values() for n in c))}
    crowded = max(map(len, shown.values())) > 4
    horizon = max(row.horizon for row in table.rows)
    alone = len(shown) == 1
    for number, titles in enumerate(_pages(list(shown), PANELS), 1):
        figure, axes = panels(titles, 3.8 if alone else 2.6, width=6.4 if alone else 4.2,
                              sharex=True, sharey=True)  # fmt: skip
        for axis, title in zip(axes, titles, strict=False):
            for name, rows in shown[title].items():
                _survival(axis, rows, horizon, name, looks[name], not crowded)
            axis.set_title(_short(title, 46), fontsize="medium")
            axis.set_ylim(-0.03, 1.03)
        _outer(axes[: len(titles)], "months", "villages alive, share")
        if len(looks) > 1:
            legend(figure, *axes[: len(titles)], columns=2 if alone else 4)
        band = "" if crowded else (
            ", with its 95 % interval (Greenwood, log-log; undefined where none or all have "
            "collapsed)"
        )  # fmt: skip
        yield Picture(
            f"survival-{number}", "Survival (Kaplan-Meier)",
            f"Share of villages without a collapse after each month{band}. Ticks: runs that ended "
            "there alive.",
            figure,
        )  # fmt: skip


def point_pictures(found: Sequence[Group]) -> Iterator[Picture]:
    """Every measure as points with intervals; legacy hollow beside strict filled."""
    names = list(dict.fromkeys(group.condition for group in found))
    by = {(group.condition, group.form): group for group in found}
    for number, page in enumerate(_pages(names, PER_PAGE), 1):
        figure, axes = panels(SHOWN, 1.3 + 0.3 * len(page), sharey=True)
        for axis, measure in zip(axes, SHOWN, strict=True):
            kind = MEASURES[measure]
            for form, shift, fill in (("strict", 0.14, BLUE), ("legacy", -0.14, "white")):
                points = [(y, value) for y, name in enumerate(page)
                          if (value := by[name, form].values[measure]) is not None]  # fmt: skip
                _points(axis, points, kind.scale, shift, fill, form)
            axis.set_title(kind.title, fontsize="medium")
            axis.set_xlabel(kind.unit)
            axis.set_yticks(range(len(page)), [_short(name, 64) for name in page], fontsize="small")
            axis.set_ylim(len(page) - 0.5, -0.5)
            axis.grid(axis="x", color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
            if kind.scale == 100:
                axis.set_xlim(-3, 103)
            else:
                axis.set_xlim(left=0)
        legend(figure, *axes)
        yield Picture(
            f"measures-{number}", "Measures by condition",
            "Means over runs with 95 % intervals. Filled: strict, the paper's definitions. "
            "Hollow: legacy, as GovSim's tables print them.",
            figure,
        )  # fmt: skip


def catch_picture(game: Game) -> Picture:
    """Who took what in one run."""
    names, months = game.names, np.arange(1, game.months + 1)
    fair = share(game.rules, game.stock, np.maximum(game.present.sum(axis=1), 1))
    limits = _in_force(game.limits)
    figure, axes = panels(names, 2.6, sharex=True, sharey=True)
    for i, (axis, name) in enumerate(zip(axes, names, strict=False)):
        there, read = game.present[:, i], game.valid[:, i]
        axis.bar(months[there], game.received[there, i], 0.7, color=COLOURS[5], label="catch")
        want = there & read & (game.demands[:, i] != game.received[:, i])
        axis.plot(months[want], game.demands[want, i], "v", color=BLUE, mfc="none",
                  label="demand, where not all was got")  # fmt: skip
        (crosses,) = axis.plot(months[there & ~read], np.zeros((there & ~read).sum()), "x",
                               color=RED, markersize=8, clip_on=False, zorder=5,
                               label="invalid answer")  # fmt: skip
        crosses.set_in_layout(False)  # nothing to lay out if there are none
        ends = months - 0.45, months + 0.45
        axis.hlines(fair, *ends, color="black", linestyle="--", linewidth=1.2,
                    label="sustainable share")  # fmt: skip
        axis.hlines(limits, *ends, color=ORANGE, linewidth=1.8, label="agreed limit")
        axis.set_title(_short(name, 40), fontsize="medium")
        axis.set_xlim(0.4, game.rules.months + 0.6)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _outer(axes[: len(names)], "month", "units")
    legend(figure, *axes)
    return Picture(
        "catches", "Catches by villager",
        "The sustainable share is the most that each could take without the stock shrinking. An "
        "agreed limit counts from the month after the agreement until the next one.",
        figure,
    )  # fmt: skip


def _stock(axis: Any, rows: Sequence[Row], horizon: int) -> None:
    months = np.arange(1, horizon + 1)
    grid = np.zeros((len(rows), horizon))
    for i, row in enumerate(rows):
        grid[i, : len(row.stock)] = row.stock
        if not row.collapsed and len(row.stock) < horizon:  # broken off: not known further on
            grid[i, len(row.stock) :] = np.nan
        told = grid[i, : len(row.stock) + row.collapsed]
        name = "run" if i == 0 else None
        axis.plot(months[: len(told)], told, color=GREY, linewidth=0.8, alpha=0.8, label=name,
                  marker="." if len(rows) == 1 else None)  # fmt: skip
    if len(rows) > 1:
        means = [
            stats.mean(column[~np.isnan(column)].tolist()) if (~np.isnan(column)).any() else None
            for column in grid.T
        ]
        middle, low, high = (
            [np.nan if one is None else getattr(one, field) for one in means]
            for field in ("value", "low", "high")
        )
        axis.fill_between(months, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 %")
        axis.plot(months, middle, color=BLUE, linewidth=1.8, label="mean")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curves(table: Table) -> dict[str, dict[str, list[Row]]]:
    """Curves by panel and name."""
    conditions = table.conditions
    if "model" in table.factors:
        shown: dict[str, dict[str, list[Row]]] = {}
        for row in table.rows:
            rest = label({k: v for k, v in row.condition.items() if k != "model"})
            shown.setdefault(rest, {}).setdefault(str(row.condition["model"]), []).append(row)
        return shown
    if len(conditions) <= 4:
        return {"": conditions}
    return {name: {"villages": rows} for name, rows in conditions.items()}


def _survival(
    axis: Any, rows: Sequence[Row], horizon: int, name: str, look: int, band: bool
) -> None:
    curve = stats.kaplan_meier([r.months for r in rows], [r.collapsed for r in rows])
    months = np.append(curve.months, horizon)
    # Colours and strokes repeat after 8 and 4; turned by one each time, no two curves are alike.
    colour, style = COLOURS[look % len(COLOURS)], _LINES[(look + look // 8) % len(_LINES)]
    alive, low, high = (np.append(v, v[-1]) for v in (curve.alive, curve.low, curve.high))
    axis.step(months, alive, where="post", color=colour, linestyle=style, label=_short(name, 60))
    if band:
        axis.fill_between(months, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    ended = sorted({row.months for row in rows if not row.collapsed})
    there = [alive[np.searchsorted(months[:-1], month, side="right") - 1] for month in ended]
    axis.plot(ended, there, "|", color=colour, markersize=9)
    axis.set_xlim(0, horizon + 0.3)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _points(
    axis: Any, points: Sequence[tuple[int, stats.Interval]], scale: float, shift: float,
    fill: str, form: str,
) -> None:  # fmt: skip
    x = [scale * value.value for _, value in points]
    error = ([max(0.0, scale * (v.value - v.low)) for _, v in points],
             [max(0.0, scale * (v.high - v.value)) for _, v in points])  # fmt: skip
    colour, mark = (BLUE, "o") if form == "strict" else (RED, "D")
    axis.errorbar(x, [y - shift for y, _ in points], xerr=error, fmt=mark, color=colour,
                  mfc=fill, markersize=4.5, linewidth=1, label=form)  # fmt: skip


def _in_force(limits: np.ndarray) -> np.ndarray:
    """The limit that counts in each month: the last one agreed before it."""
    held, now = np.full(len(limits), np.nan), np.nan
    for month, limit in enumerate(limits):
        held[month] = now
        now = now if np.isnan(limit) else limit
    return held


def _outer(axes: Sequence[Any], x: str, y: str) -> None:
    for axis in axes:
        axis.set_xlabel(x)
        axis.tick_params(labelbottom=True)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(y)


def _pages(names: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), most):
        yield names[start : start + most]


def _short(text: str, most: int) -> str:
    # A dollar sign would begin a formula.
    text = text.replace("$", r"\$")
    return text if len(text) <= most else text[: most - 3] + "..."
