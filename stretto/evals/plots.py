"""The two pictures of an efficiency run. Imported late: needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from stretto.evals.summary import Line

if TYPE_CHECKING:
    from stretto.evals.report import Report

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = {
    "base": "#999999",
    "single": "#D55E00",
    "read": "#0072B2",
    "audit": "#009E73",
    "prefilled": "#E69F00",
}


def draw(report: "Report", output: Path) -> list[Path]:
    """Write the pictures that the run has data for; return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    written = [_delay_bars(report, output / "efficiency-delay.png")]
    if report.frontier:
        written.append(_frontier(report, output / "efficiency-frontier.png"))
    return written


def _panels(tasks: Sequence[str], height: float = 3.2) -> tuple[Any, list[Any]]:
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, height * rows), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for unused in flat[len(tasks) :]:
        unused.set_visible(False)
    return figure, flat


def _delay_bars(report: "Report", path: Path) -> Path:
    """Delay after the end of the input, by arrival rate and system."""
    tasks = list(dict.fromkeys(line.task for line in report.lines))
    systems = list(dict.fromkeys(line.system for line in report.lines))
    rates = report.config.rates
    figure, axes = _panels(tasks)
    by = {(line.task, line.system, line.rate): line for line in report.lines}
    width = 0.8 / len(systems)
    for axis, task in zip(axes, tasks, strict=False):
        for i, system in enumerate(systems):
            found = [(x, by[task, system, rate]) for x, rate in enumerate(rates)
                     if (task, system, rate) in by]  # fmt: skip
            delays = [line.delay_s for _, line in found]
            low = [max(0.0, line.delay_s - line.delay_s_q1) for _, line in found]
            high = [max(0.0, line.delay_s_q3 - line.delay_s) for _, line in found]
            axis.bar([x + (i - (len(systems) - 1) / 2) * width for x, _ in found], delays, width,
                     yerr=(low, high), label=system, color=_COLOURS[system],
                     error_kw={"linewidth": 0.8})  # fmt: skip
        axis.set_title(task)
        axis.set_xticks(range(len(rates)), rates)
        axis.set_xlabel("input tokens per second")
        axis.set_ylabel("delay after end of input, s")
    _legend(figure, axes[0])
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _frontier(report: "Report", path: Path) -> Path:
    """Delay against accuracy over the lag, with the other systems as single points."""
    tasks = list(dict.fromkeys(line.task for line in report.frontier))
    figure, axes = _panels(tasks)
    rate = report.config.frontier_rate
    for axis, task in zip(axes, tasks, strict=False):
        points = [line for line in report.frontier if line.task == task]
        _errorbar(axis, points, "read", "o-")
        for line in points:
            axis.annotate(line.lag, (line.delay_s, 100 * line.accuracy), fontsize="small",
                          textcoords="offset points", xytext=(4, 4))  # fmt: skip
        for system in ("base", "single", "audit", "prefilled"):
            others = [line for line in report.lines
                      if (line.task, line.system, line.rate) == (task, system, rate)]  # fmt: skip
            if others:
                _errorbar(axis, others, system, "s")
        axis.set_title(task)
        axis.set_xlabel(f"delay after end of input, s ({rate} tokens/s)")
        axis.set_ylabel("accuracy, %")
    _legend(figure, axes[0])
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _legend(figure: Any, axis: Any) -> None:
    """One for all panels, above them, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize="small")


def _errorbar(axis: Any, points: Sequence[Line], system: str, style: str) -> None:
    accuracy = [100 * line.accuracy for line in points]
    low = [100 * (line.accuracy - line.low) for line in points]
    high = [100 * (line.high - line.accuracy) for line in points]
    axis.errorbar([line.delay_s for line in points], accuracy, yerr=(low, high), fmt=style,
                  color=_COLOURS[system], label=system, linewidth=1, capsize=2)  # fmt: skip
