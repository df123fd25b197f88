"""How well the default model fills the arguments of a tool: BFCL v4 simple, by the authors' rules.

Run as ``python -m benchmarks.bfcl``. The data are those of the package bfcl-eval; the folder is
``BENCH_BFCL``, or ``bfcl`` in ``BENCH_SOURCE``. Every item is run, ``FULL=1`` or not. Written to
``build/bench/bfcl.json``.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.goal import Goal, missing, run, save
from stretto.errors import InputError
from stretto.evals.bfcl import (
    Filled,
    fill_by_chance,
    fill_by_schema,
    fill_grounded,
    load_items,
)
from stretto.evals.bfcl_live import fill_live

_SOURCE = os.environ.get("BENCH_SOURCE", ".")
FOLDER = Path(os.environ.get("BENCH_BFCL") or Path(_SOURCE, "bfcl"))
BASE = os.environ.get("BENCH_BASE", "smollm2-135m")
STREAMS = os.environ.get("BENCH_STREAMS", "stretto-smollm2-135m")
BACKEND = os.environ.get("BENCH_BACKEND", "native")
TOGETHER = 32
TARGET = 0.70


def bfcl() -> Iterator[Goal]:
    """Arguments of one given tool, filled by the default model under a grammar."""
    from stretto.engine import Engine

    try:
        items, others = load_items(FOLDER), load_items(FOLDER, "multiple")
    except InputError as error:
        yield missing("4", "BFCL simple", error, f">= {100 * TARGET:.0f}")
        return
    engine = Engine.load(BASE, backend=BACKEND, max_sessions=TOGETHER)

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    rows: list[dict[str, object]] = []

    def goal(what: str, found: Sequence[Filled], target: float | None = None) -> Goal:
        share = sum(not each.why for each in found) / max(1, len(found))
        rows.extend(
            {"what": what, "id": each.item.id, "text": each.text, "why": each.why} for each in found
        )
        wanted = "" if target is None else f">= {100 * target:.0f}"
        return Goal("4", f"{what} ({len(found)} items)", 100 * share, "%", wanted,
                    target is None or share >= target)  # fmt: skip

    yield goal("simple, values from the question, the model chooses",
               fill_grounded(engine, items, tell), TARGET)  # fmt: skip
    # The rules of grounding were made with the failures of `simple` in sight; with these never.
    yield goal("multiple, right function given, the same",
               fill_grounded(engine, others, tell))  # fmt: skip
    yield goal("simple, the schema alone as grammar", fill_by_schema(engine, items, tell))
    yield goal("simple, values from the question, chance chooses", fill_by_chance(items))
    del engine
    engine = Engine.load(STREAMS, backend=BACKEND, max_sessions=TOGETHER)
    what = "the multi-stream model's code stream, the whole call in one go"
    yield goal(f"simple, {what}", fill_live(engine, items, tell))
    yield goal(f"multiple, right function given, {what}", fill_live(engine, others, tell))
    save("bfcl_items", rows)


if __name__ == "__main__":
    sys.exit(run("bfcl", {"4": bfcl}))
