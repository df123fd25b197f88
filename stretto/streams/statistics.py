"""What a collection of tables is like: sizes, silence, and how far each output lags behind."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from stretto.streams.table import StreamTable
from stretto.streams.tokens import ABSENT


class Statistics:
    """Running totals; tables are added one by one."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._lags: dict[str, list[int]] = defaultdict(list)
        self._conditions: dict[str, Counter[str]] = {"lag": Counter(), "arrival": Counter()}

    def add(self, table: StreamTable) -> None:
        """Count one table (its ``meta`` says task and set)."""
        outputs = table.rows[:, list(table.streams.outputs)]
        prompt = table.num_prompt_rows
        self._counts[table.meta["task"], table.meta["set"]] += Counter(
            tables=1,
            rows=len(table),
            cells=prompt + int((table.rows != ABSENT).sum()),
            content_tokens=int(table.is_content().sum()),
            output_cells=int((outputs != ABSENT).sum()),
            silent_cells=int((outputs == table.special.silence).sum()),
            trained_cells=int((table.cells().labels >= 0).sum()),
            planted_errors=int("planted" in table.meta),
        )
        for name, values in _lags(table).items():
            self._lags[name] += values
        if "lag" in table.meta:
            self._conditions["lag"][str(table.meta["lag"])] += 1
            self._conditions["arrival"][table.meta["arrival"].partition(" ")[0]] += 1

    def summary(self) -> dict[str, Any]:
        """Plain data: a list by task and set, the totals, and the lags in rows.

        Silence is a share of the live output cells. The lag of ``answer`` is counted from the end
        of chunk i to the start of step i, that of ``audit`` from the start of a step to the start
        of the remark on it.
        """
        parts = [
            {"task": task, "set": set_name, **_shares(counts)}
            for (task, set_name), counts in self._counts.items()
        ]
        lags = {
            name: {
                "median": float(np.median(values)),
                "p90": float(np.percentile(values, 90)),
                "count": len(values),
            }
            for name, values in self._lags.items()
        }
        total = sum(self._counts.values(), Counter[str]())
        conditions = {name: dict(sorted(c.items())) for name, c in self._conditions.items()}
        return {"total": _shares(total), "parts": parts, "lag_rows": lags, **conditions}


def _shares(counts: Counter[str]) -> dict[str, Any]:
    share = counts["silent_cells"] / max(1, counts["output_cells"])
    return {**counts, "silent_share": round(share, 4)}


def _lags(table: StreamTable) -> dict[str, list[int]]:
    chunks, steps = table.meta.get("chunk_rows"), table.meta.get("step_rows")
    if not chunks or not steps:
        return {}
    found = {"answer": [step - chunks[min(i, len(chunks) - 1)] for i, step in enumerate(steps)]}
    if remarks := table.meta.get("remark_rows"):
        found["audit"] = [remark - step for step, remark in zip(steps, remarks, strict=True)]
    return found
