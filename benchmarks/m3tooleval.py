"""M3ToolEval: given outputs scored by the authors' rules, and a run of a model where one is named.

Run as ``python -m benchmarks.m3tooleval [code|json|text]``. Tasks and pages are those of the
development pack, in ``BENCH_SOURCE``. ``BENCH_M3_OUTPUT`` names an output file of the authors'
program: our scores are compared with those in it. ``BENCH_CHAT`` names a model and
``BENCH_BASE_URL`` its endpoint (key: ``OPENAI_API_KEY``): all tasks are run. Written to
``build/bench/m3tooleval.json``; conversations to ``build/bench/m3tooleval-MODEL-DIALECT``, where a
stopped run goes on.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.goal import OUTPUT, Goal, missing, run
from stretto.errors import InputError
from stretto.evals.m3_rules import DIALECTS, Dialect, load_tasks, score, score_record
from stretto.evals.m3tooleval import load_data, run_all, summary

FOLDER = Path(os.environ.get("BENCH_SOURCE", "."))
TASKS = FOLDER / "m3tooleval_even41.jsonl"


def m3tooleval() -> Iterator[Goal]:
    """M3ToolEval, scored as its authors do."""
    named: list[Dialect] = [each for each in DIALECTS if each in set(sys.argv[1:])]
    dialect = named[0] if named else "code"
    try:
        tasks, data = load_tasks(TASKS), load_data(FOLDER)
    except InputError as error:
        yield missing("4", "M3ToolEval", error, "scores as the authors'")
        return
    right = sum(score(task, [f"Answer: {task.expected}"]).correct for task in tasks)
    yield Goal("4", f"M3ToolEval: right answers accepted ({len(tasks)} tasks)",
               100 * right / len(tasks), "%", "100", right == len(tasks))  # fmt: skip
    if given := os.environ.get("BENCH_M3_OUTPUT"):
        records = list(map(json.loads, Path(given).read_text("utf-8").splitlines()))
        same = sum(score_record(record).correct == record["is_correct"] for record in records)
        yield Goal("4", f"M3ToolEval: given outputs scored as by the authors ({len(records)})",
                   100 * same / max(1, len(records)), "%", "100", same == len(records))  # fmt: skip
    if name := os.environ.get("BENCH_CHAT"):
        told = asyncio.run(_run(name, tasks, dialect, data))
        yield Goal("4", f"M3ToolEval, {name}, {dialect} actions ({told['tasks']} tasks, "
                   f"{told['turns']:.1f} turns)", told["success"], "%", "", True)  # fmt: skip


async def _run(name: str, tasks: list[Any], dialect: Dialect, data: Any) -> dict[str, Any]:
    from stretto.agents.chat import EndpointChat

    folder = OUTPUT / re.sub(r"[^\w.-]", "_", f"m3tooleval-{name}-{dialect}")
    async with EndpointChat(name, base_url=os.environ.get("BENCH_BASE_URL")) as model:
        records = await run_all(
            model, tasks, dialect, data, folder, resume=(folder / "events.jsonl").exists(),
            tell=lambda line: print(f"  {line}", file=sys.stderr),
        )  # fmt: skip
    return summary(records)


if __name__ == "__main__":
    sys.exit(run("m3tooleval", {"4": m3tooleval}))
