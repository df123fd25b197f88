"""Does a model get better by its own attempts? Pass rate before and after, on tools held back.

Run as ``python -m benchmarks.improve``: about 15 minutes on two idle cores. ``BENCH_BFCL`` adds
BFCL simple before and after. The run is kept in ``build/bench/improve``, where a stopped one goes
on; it is begun anew once it is finished. Written to ``build/bench/improve.json``.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.goal import OUTPUT, Goal, run
from stretto.evals.improve import ImproveConfig, improve
from stretto.runs import Run

FOLDER = OUTPUT / "improve"


def improved() -> Iterator[Goal]:
    """Pass rate of the default model before and after it learnt from its own attempts."""
    bfcl = os.environ.get("BENCH_BFCL")
    config = ImproveConfig(
        model=os.environ.get("BENCH_BASE", "smollm2-135m"),
        backend=os.environ.get("BENCH_BACKEND", "native"),
        bfcl=Path(bfcl) if bfcl else None,
    )
    going_on = (FOLDER / "events.jsonl").exists() and Run.open(FOLDER).status != "finished"
    if not going_on:
        shutil.rmtree(FOLDER, ignore_errors=True)
    text = improve(config, FOLDER, resume=going_on,
                   tell=lambda line: print(f"  {line}", file=sys.stderr))  # fmt: skip
    print(text)
    for row in Run.open(FOLDER).metrics()["rows"]:
        is_goal = row["slice"] == "held_back"
        what = {"held_back": "held-back tools", "bfcl": "BFCL simple, schema as grammar"}
        name = f"{what[row['slice']]} ({row['items']} items)"
        low, high = row["difference_95"]
        yield Goal("5", f"{name}, before", row["before"], "%", "", True)
        yield Goal("5", f"{name}, after; difference {low:+.1f} to {high:+.1f}", row["after"], "%",
                   "above before" if is_goal else "", not is_goal or low > 0)  # fmt: skip


if __name__ == "__main__":
    sys.exit(run("improve", {"5": improved}))
