"""The two pictures of an efficiency run. Imported late: needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt

from stretto.evals.summary import Line
from stretto.plots import BLUE, GREEN, GREY, ORANGE, RED, legend, panels

if TYPE_CHECKING:
    from stretto.evals.report import Report

_COLOURS = {"base": GREY, "single": RED, "read": BLUE, "audit": GREEN, "prefilled": ORANGE}


def draw(report: "Report", output: Path) -> list[Path]:
    """Write the pictures that the run has data for; return their paths."""
    output.mkdir(parents=True, exist_ok=True)
    written = [_delay_bars(report, output / "efficiency-delay.png")]
    if report.frontier:
        written.append(_frontier(report, output / "efficiency-frontier.png"))
    return written


def _delay_bars(report: "Report", path: Path) -> Path:
    """Delay after the end of the input, by arrival rate and system."""
    tasks = list(dict.fromkeys(line.task for line in report.lines))
    systems = list(dict.fromkeys(line.system for line in report.lines))
    rates = report.config.rates
    figure, axes = panels(tasks)
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
    legend(figure, axes[0])
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _frontier(report: "Report", path: Path) -> Path:
    """Delay against accuracy over the lag, with the other systems as single points."""
    tasks = list(dict.fromkeys(line.task for line in report.frontier))
    figure, axes = panels(tasks)
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
    legend(figure, axes[0])
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _errorbar(axis: Any, points: Sequence[Line], system: str, style: str) -> None:
    accuracy = [100 * line.accuracy for line in points]
    low = [100 * (line.accuracy - line.low) for line in points]
    high = [100 * (line.high - line.accuracy) for line in points]
    axis.errorbar([line.delay_s for line in points], accuracy, yerr=(low, high), fmt=style,
                  color=_COLOURS[system], label=system, linewidth=1, capsize=2)  # fmt: skip
