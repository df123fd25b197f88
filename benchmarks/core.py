"""The goals of the core, measured now on the shipped models. ``FULL=1`` takes more items.

Run as ``python -m benchmarks.core``; with arguments, only those goals: ``... core 2 3``.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.goal import Goal, run
from stretto.streams.examples import Example

FULL = os.environ.get("FULL") == "1"
BASE = os.environ.get("BENCH_BASE", "smollm2-135m")
MODEL = os.environ.get("BENCH_MODEL", "stretto-smollm2-135m")
BASELINE = os.environ.get("BENCH_BASELINE", "stretto-smollm2-135m-single")
SEED = 0


def help_time() -> Iterator[Goal]:
    """How long the command takes to say what it can do."""
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "stretto", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    value = statistics.median(seconds[1:])
    yield Goal("1", "stretto --help, median of 7", value, "s", "< 0.4", value < 0.4)


def exactness() -> Iterator[Goal]:
    """Cached rows against one forward pass, and one stream against transformers' generate."""
    from benchmarks.exactness import greedy_matches, largest_difference

    for rule in ("inclusive", "strict"):
        value = largest_difference(BASE, rule, tables=8 if FULL else 3, seed=SEED)
        what = f"cached against teacher-forced logits, fp32, {rule}, largest difference"
        yield Goal("2", what, value, "", "< 1e-3", value < 1e-3)
    same = greedy_matches(BASE, prompts=20, tokens=32)
    what = "one stream, zero vectors: prompts equal to generate over 32 tokens"
    yield Goal("2", what, same, "of 20", "20", same == 20)


def round_trip() -> Iterator[Goal]:
    """Random texts to a table, to JSON and back."""
    from stretto.models import load_codec
    from stretto.streams import READ, StreamTable, text_table

    codec = load_codec(BASE)
    rng, same = random.Random(SEED), 0
    for _ in range(1000):
        columns = {"user": _random_text(rng), "answer": _random_text(rng)}
        table = text_table(READ, codec, {name: [text] for name, text in columns.items()})
        back = StreamTable.from_jsonl(table.to_jsonl(), codec)
        same += back == table and all(back.text(name) == text for name, text in columns.items())
    yield Goal("3", "random texts that survive a round trip", same, "of 1000", "1000", same == 1000)


def causality() -> Iterator[Goal]:
    """Planted violations found, clean samples passed.

    The check reads numbers literally, so it is asked about texts. Steps of the sums that
    reasoning-gym makes hold results without an equation; what those need is known by construction.
    """
    from collections import Counter

    from benchmarks.planting import plants
    from stretto.streams.alignment import step_gates
    from stretto.streams.causality import check

    examples, where = _examples(300 if FULL else 100)
    rng = random.Random(SEED)
    rng.shuffle(examples)
    found = tried = 0
    passed: Counter[str] = Counter()
    for example in examples:
        read = [min(gate, len(example.chunks)) for gate in step_gates(example, 1)]
        passed[example.task] += not check(example, read)
        ways = plants(example)
        if ways and tried < 50:
            step, broken = rng.choice(ways)
            tried += 1
            found += any(violation.step == step for violation in check(example, broken))
    what = f"planted violations found ({where})"
    yield Goal("4", what, found, f"of {tried}", "50 of 50", found == tried == 50)
    share = passed.total() / len(examples)
    each = ", ".join(f"{task} {count}" for task, count in passed.items())
    what = f"clean samples passed, of {len(examples)} ({where}; {each})"
    yield Goal("4", what, 100 * share, "%", ">= 95", share >= 0.95)


def reading() -> Iterator[Goal]:
    """Delay and accuracy of answering while reading, at 20 tokens/s."""
    from stretto.evals import EfficiencyConfig, run_efficiency
    from stretto.evals.config import DATA_TASKS
    from stretto.evals.efficiency import open_run
    from stretto.evals.goals import NEEDED
    from stretto.evals.items import find_source
    from stretto.evals.report import read_report

    source = find_source(None)
    # Of the generated families, the one that the single-stream model solves in over 60 % of cases.
    tasks = (*(DATA_TASKS if source else ()), "needle_haystack")
    config = EfficiencyConfig(
        tasks=tasks, systems=("single", "read"), rates=("20",),
        limit=0 if FULL else 25, source=str(source or ""), model=MODEL, baseline=BASELINE,
        base=BASE, wall_items=0, seed=SEED,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        events = open_run(config, Path(folder) / "run", resume=False)
        run_efficiency(config, events, progress=_progress())
        report = read_report(events)
    for remark in report.remarks:
        print(f"  {remark}", file=sys.stderr)
    for goal in report.goals:
        r, d, name = goal.reduction, goal.difference, f"{goal.task} (n={goal.n})"
        yield Goal("5", f"{name}: less delay [{100 * r.low:.0f}, {100 * r.high:.0f}]",
                   100 * r.value, "%", ">= 40", r.value >= 0.4)  # fmt: skip
        yield Goal("5", f"{name}: accuracy against single [{100 * d.low:.0f}, {100 * d.high:.0f}]",
                   100 * d.value, "points", ">= -2", d.value >= -0.02 - 1e-9)  # fmt: skip
        yield Goal("5", f"{name}: first token after end of input, median",
                   goal.ttft_rows, "rows", "0", goal.ttft_rows == 0)  # fmt: skip
    met = sum(goal.met for goal in report.goals)
    what = "tasks with both delay and accuracy met"
    yield Goal("5", what, met, f"of {len(report.goals)}", ">= 3 of 4", met >= NEEDED)


def resume() -> Iterator[Goal]:
    """A training run killed by SIGKILL, against one that was left alone."""
    from benchmarks.resume import largest_loss_difference

    value = largest_loss_difference(BASE, seed=SEED)
    what = "loss after SIGKILL and --resume, largest difference"
    yield Goal("6", what, value, "", "<= 1e-4", value <= 1e-4)


def _examples(limit: int) -> tuple[list[Example], str]:
    """Up to ``limit`` texts of each task that can be checked and that there is here."""
    from stretto.evals.config import EfficiencyConfig
    from stretto.evals.items import choose_tasks, find_source, load_items

    source = find_source(None)
    tasks = tuple(t for t in choose_tasks(None, source) if t not in ("leg_counting", "chain_sum"))
    config = EfficiencyConfig(tasks=tasks, source=str(source or ""), limit=limit)
    items, _ = load_items(config)
    return [e for found in items.values() for e in found], "dev pack" if source else "generated"


def _progress() -> Callable[[int, int, str], None]:
    """Prints a line now and then."""
    last = [0.0]

    def tell(done: int, total: int, what: str) -> None:
        if time.monotonic() - last[0] > 15:
            last[0] = time.monotonic()
            print(f"  {done}/{total} {what}", file=sys.stderr)

    return tell


_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz ABC 0123456789",
    "\t\n  {}[]()<>=+-*/#'\"\\_;:,.|&%$~`^@!?",
    "def f(x):\n\treturn x\r\n    if True:\n",
    "éèüßñçøåœ—…“”„",
    "שלוםעליכםمرحبابالعالم",
    "漢字かなカナ한국어",
    "🙂👩‍👩‍👧🏳️‍🌈👍🏽🇩🇪",
    "\u200b\u200d\u202e\ufeff\u0301\u00a0\ud7ff\U0010ffff",
)


def _random_text(rng: random.Random) -> str:
    parts = ("".join(rng.choices(rng.choice(_ALPHABETS), k=rng.randint(1, 20))) for _ in range(6))
    return "".join(parts)


MEASURES = {
    "1": help_time,
    "2": exactness,
    "3": round_trip,
    "4": causality,
    "5": reading,
    "6": resume,
}

if __name__ == "__main__":
    wanted = sys.argv[1:] or list(MEASURES)
    if unknown := [number for number in wanted if number not in MEASURES]:
        sys.exit(f"no goal {unknown[0]!r}; choose from {', '.join(MEASURES)}")
    sys.exit(run("core", {number: MEASURES[number] for number in wanted}))
