"""Whether reading while writing kept its promise: goal 5 of the core, with intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stretto.evals.config import DATA_TASKS, EfficiencyConfig
from stretto.evals.metrics import (
    Estimate,
    mcnemar,
    mean_difference,
    median,
    median_reduction,
    paired_bootstrap,
)
from stretto.evals.records import Record
from stretto.evals.summary import pairs, place

LESS_DELAY = 0.40
ACCURACY_POINTS = 0.02
SOLVED = 0.60
NEEDED = 3


@dataclass(frozen=True)
class TaskGoal:
    """``read`` against ``single`` on the same items of one task.

    Attributes:
        reduction: share by which the median delay (seconds) is lower.
        difference: accuracy of ``read`` minus that of ``single``.
        p: exact McNemar p-value of that difference.
        ttft_rows: median rows from end of input to first token, and ``within``: share at 0.
        met: delay and accuracy both as asked for.
    """

    task: str
    n: int
    single_accuracy: float
    read_accuracy: float
    single_delay_s: float
    read_delay_s: float
    reduction: Estimate
    difference: Estimate
    p: float
    ttft_rows: float
    ttft_zero: float
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """The result in words, a miss said as a miss."""
        r, d = self.reduction, self.difference
        return (
            f"{self.task}: {'met' if self.met else 'missed'}. Delay {self.read_delay_s:.2f} s "
            f"against {self.single_delay_s:.2f} s, {100 * r.value:.0f} % less "
            f"[{100 * r.low:.0f}, {100 * r.high:.0f}]; accuracy {100 * self.read_accuracy:.1f} % "
            f"against {100 * self.single_accuracy:.1f} %, {100 * d.value:+.1f} points "
            f"[{100 * d.low:+.1f}, {100 * d.high:+.1f}], McNemar p = {self.p:.2g}; first token "
            f"{self.ttft_rows:.0f} rows after the end of input (median; 0 rows or earlier on "
            f"{100 * self.ttft_zero:.0f} % of {self.n} items)."
        )


def judge(records: Sequence[Record], config: EfficiencyConfig) -> list[TaskGoal]:
    """Goal 5 on the data tasks and on the best generated family, where both systems ran."""
    rate = config.goal_rate
    at_rate = [r for r in place(records, (rate,))
               if r.rate == rate and (r.system == "single" or r.lag == config.lag)]  # fmt: skip
    found = {task: goal for task in config.tasks if (goal := _compare(at_rate, task, rate))}
    families = [task for task in found if task not in DATA_TASKS]
    chosen = [task for task in DATA_TASKS if task in found]
    if families:
        chosen.append(max(families, key=lambda task: found[task].single_accuracy))
    return [found[task] for task in chosen]


def verdict(goals: Sequence[TaskGoal]) -> str:
    """One line on the whole: how many of the four tasks."""
    met = sum(goal.met for goal in goals)
    line = (
        f"{met} of {len(goals)} tasks have at least {100 * LESS_DELAY:.0f} % less delay with "
        f"accuracy no more than {100 * ACCURACY_POINTS:.0f} points lower "
        f"(asked for: {NEEDED} of 4): {'met' if met >= NEEDED else 'missed'}."
    )
    families = [goal for goal in goals if goal.task not in DATA_TASKS]
    if families and families[0].single_accuracy <= SOLVED:
        line += (
            f" The generated family is to be one that `single` solves in over {100 * SOLVED:.0f} % "
            f"of cases; the best here, {families[0].task}, reaches "
            f"{100 * families[0].single_accuracy:.0f} %: missed."
        )
    late = [goal.task for goal in goals if goal.ttft_rows > 0]
    line += " First token 0 rows after the end of input: "
    return line + (f"missed on {', '.join(late)}." if late else "met on all of them.")


def _compare(records: Sequence[Record], task: str, rate: str) -> TaskGoal | None:
    read, single = pairs(records, task, "read", "single", rate)
    if not read:
        return None
    right_read, right_single = [r.correct for r in read], [s.correct for s in single]
    delays = [r.delay_s for r in read], [s.delay_s for s in single]
    reduction = paired_bootstrap(*delays, median_reduction)
    difference = paired_bootstrap(right_read, right_single, mean_difference)
    rows = [r.ttft_rows for r in read]
    return TaskGoal(
        task=task,
        n=len(read),
        single_accuracy=sum(right_single) / len(single),
        read_accuracy=sum(right_read) / len(read),
        single_delay_s=median(delays[1]),
        read_delay_s=median(delays[0]),
        reduction=reduction,
        difference=difference,
        p=mcnemar(right_read, right_single),
        ttft_rows=median(rows),
        ttft_zero=sum(r == 0 for r in rows) / len(rows),
        met=reduction.value >= LESS_DELAY and difference.value >= -ACCURACY_POINTS - 1e-9,
    )
