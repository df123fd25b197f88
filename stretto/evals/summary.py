"""From records to the lines of the tables: one line a task, system, rate and lag."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stretto.evals.config import EfficiencyConfig
from stretto.evals.metrics import median, spread, wilson
from stretto.evals.records import ANY_RATE, Record

FRONTIER = "frontier"


@dataclass(frozen=True)
class Line:
    """Figures of one system on one task at one arrival rate; medians over items.

    Attributes:
        accuracy, low, high: share right and its 95 % interval (Wilson).
        answered: share in which a final answer was found.
        ttft_s, ttft_rows: end of input to first token; 0 when it came before.
        ttft_start_s: first moment to first token.
        delay_s, delay_rows: end of input to end of answer, with quartiles of the seconds.
        end_s: first moment to end of answer.
        tokens_per_s: answer tokens per second over that time.
        wake_ticks: first word against the first tick the alignment allows (negative: early).
        wake_on_time: share of items within one tick of it.
    """

    task: str
    system: str
    rate: str
    lag: str
    n: int
    accuracy: float
    low: float
    high: float
    answered: float
    ttft_s: float
    ttft_rows: float
    ttft_start_s: float
    delay_s: float
    delay_s_q1: float
    delay_s_q3: float
    delay_rows: float
    end_s: float
    tokens_per_s: float
    wake_ticks: float | None = None
    wake_on_time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for CSV and JSON."""
        return asdict(self)


def place(records: Iterable[Record], rates: Sequence[str]) -> list[Record]:
    """Every record at the rates it speaks for: answers that wait for the input at all of them."""
    placed: list[Record] = []
    for record in records:
        if record.rate == ANY_RATE:
            placed += [record.placed(rate) for rate in rates]
        else:
            placed.append(record)
    return placed


def summarise(records: Sequence[Record]) -> Line:
    """One line from the records of one condition.

    Args:
        records: at least one, all of the same task, system, rate and lag, with a real rate.
    """
    first, n = records[0], len(records)
    low, high = wilson(sum(r.correct for r in records), n)
    delays = [r.delay_s for r in records]
    wakes = [r.wake_ticks for r in records if r.wake_ticks is not None]
    return Line(
        task=first.task,
        system=first.system,
        rate=first.rate,
        lag=first.lag,
        n=n,
        accuracy=sum(r.correct for r in records) / n,
        low=low,
        high=high,
        answered=sum(r.answered for r in records) / n,
        ttft_s=median([r.ttft_s for r in records]),
        ttft_rows=median([r.ttft_rows for r in records]),
        ttft_start_s=median([r.ttft_start_s for r in records]),
        delay_s=median(delays),
        delay_s_q1=spread(delays)[0],
        delay_s_q3=spread(delays)[1],
        delay_rows=median([r.delay_rows for r in records]),
        end_s=median([r.end_s for r in records]),
        tokens_per_s=median([r.tokens_per_s for r in records]),
        wake_ticks=median(wakes) if wakes else None,
        wake_on_time=sum(abs(w) <= 1 for w in wakes) / len(wakes) if wakes else None,
    )


def lines(records: Iterable[Record], config: EfficiencyConfig) -> list[Line]:
    """The main table: every task, system and rate that has records, at the default lag.

    ``single`` may have answered more items than ``read`` has at a rate: its line there is over
    the items of both, so that lines of one rate can be compared.
    """
    groups = _group(place(records, config.rates))
    for (task, system, rate, lag), group in groups.items():
        read = {r.item for r in groups.get((task, "read", rate, config.lag), ())}
        if system == "single" and read:
            groups[task, system, rate, lag] = [r for r in group if r.item in read]
    return [
        summarise(group)
        for (task, system, rate, lag), group in sorted(
            groups.items(), key=lambda item: _order(item[0], config)
        )
        if rate in config.rates and (system not in ("read", "audit") or lag == config.lag)
    ]


def frontier(records: Iterable[Record], config: EfficiencyConfig) -> list[Line]:
    """``read`` at the frontier's rate, a line per lag, over the items that all lags have."""
    wanted = [
        r for r in records
        if r.system == "read" and r.rate == config.frontier_rate and r.lag in config.lags
    ]  # fmt: skip
    groups = _group(wanted)
    for task in {key[0] for key in groups}:
        lags = [key for key in groups if key[0] == task]
        shared = set.intersection(*({r.item for r in groups[key]} for key in lags))
        for key in lags:
            groups[key] = [r for r in groups[key] if r.item in shared]
    groups = {key: group for key, group in groups.items() if group}
    order = sorted(groups, key=lambda key: (config.tasks.index(key[0]), config.lags.index(key[3])))
    return [summarise(groups[key]) for key in order]


def pairs(
    records: Iterable[Record], task: str, a: str, b: str, rate: str
) -> tuple[list[Record], list[Record]]:
    """Records of two systems on the items that both have, in the same order."""
    found: dict[str, dict[str, Record]] = {a: {}, b: {}}
    for record in records:
        if record.task == task and record.rate == rate and record.system in found:
            found[record.system][record.item] = record
    items = [item for item in found[a] if item in found[b]]
    return [found[a][i] for i in items], [found[b][i] for i in items]


def _group(records: Iterable[Record]) -> dict[tuple[str, str, str, str], list[Record]]:
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records:
        key = (record.task, record.system, record.rate, record.lag)
        groups.setdefault(key, []).append(record)
    return groups


def _order(key: tuple[str, str, str, str], config: EfficiencyConfig) -> tuple[int, int, int]:
    task, system, rate, _ = key
    systems = ("base", "single", "read", "audit", "prefilled")
    rates = config.rates.index(rate) if rate in config.rates else len(config.rates)
    return config.tasks.index(task), systems.index(system), rates
