"""How well the default model fills the arguments of a tool: BFCL v4 simple, by the authors' rules.

Run as ``python -m benchmarks.bfcl``. The data are those of the package bfcl-eval; the folder is
``BENCH_BFCL``. Every item is run, ``FULL=1`` or not. Written to ``build/bench/bfcl.json``.
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

FOLDER = Path(os.environ.get("BENCH_BFCL", "/work/scratch/data/dev/bfcl"))
BASE = os.environ.get("BENCH_BASE", "smollm2-135m")
BACKEND = os.environ.get("BENCH_BACKEND", "native")
TOGETHER = 32
TARGET = 0.70


def bfcl() -> Iterator[Goal]:
    """Arguments of one given tool, filled by the default model under a grammar."""
    from stretto.engine import Engine

    try:
        items = load_items(FOLDER)
    except InputError as error:
        yield missing("4", "BFCL simple", error, f">= {TARGET:.0%}")
        return
    engine = Engine.load(BASE, backend=BACKEND, max_sessions=TOGETHER)

    def tell(text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    ways = {
        "values from the question, chosen by the model": fill_grounded(engine, items, tell),
        "any value the schema allows, written by the model": fill_by_schema(engine, items, tell),
        "values from the question, chosen by chance": fill_by_chance(items),
    }
    rows = []
    for number, (way, found) in enumerate(ways.items()):
        # The rules were made with the even items in sight, and never with the odd ones.
        whole, seen, unseen = (_share(part) for part in (found, found[::2], found[1::2]))
        what = f"BFCL simple, {len(found)} items: {way}"
        detail = f" (even items {100 * seen:.1f}, odd ones {100 * unseen:.1f})"
        is_goal = number == 0
        target = f">= {100 * TARGET:.0f}" if is_goal else ""
        yield Goal("4", what + detail, 100 * whole, "%", target, not is_goal or whole >= TARGET)
        rows += [{"way": way, "id": each.item.id, "text": each.text, "why": each.why}
                 for each in found]  # fmt: skip
    save("bfcl_items", rows)


def _share(found: Sequence[Filled]) -> float:
    return sum(not each.why for each in found) / max(1, len(found))


if __name__ == "__main__":
    sys.exit(run("bfcl", {"4": bfcl}))
