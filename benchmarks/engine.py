"""The goals of the engine, measured now on the shipped models. ``FULL=1`` measures longer.

Run as ``python -m benchmarks.engine``; with arguments, only those goals: ``... engine 1 3``. The
fast back end is the first of ``benchmarks.step.FAST`` that can be had, or ``BENCH_BACKEND``. What
lies behind the goals goes to ``build/bench/engine-tables.json``, with machine, versions and seed.
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from typing import Any

from benchmarks import growth, load
from benchmarks.goal import Goal, bench, missing
from benchmarks.machine import read_bandwidth
from benchmarks.step import (
    BACKENDS,
    BASE,
    BURST,
    REST,
    ROWS,
    BackendStepper,
    Medians,
    Stepper,
    interleaved,
    open_any,
    open_fast,
    table,
)  # fmt: skip
from stretto.engine import Engine
from stretto.engine.backends import Backend
from stretto.models import MultiStreamLM, load_codec

FULL = os.environ.get("FULL") == "1"
MODEL = os.environ.get("BENCH_MODEL", "stretto-smollm2-135m")
SEED = 0
LLAMA = "llama.cpp q4_0"
EXACT = ("transformers", "cpu:float32", "native:float32")
_TABLES: dict[str, Any] = {"full": FULL, "base": BASE, "model": MODEL}


def step_cost() -> Iterator[Goal]:
    """A row of ten streams against a row of one."""
    name, medians = _steps()
    ratio = medians[name][10] / medians[name][1]
    what = f"{name}: step of 10 cells over step of 1, {ROWS} cells cached"
    yield Goal("1", what, ratio, "x", "<= 1.35", ratio <= 1.35)
    silent = (medians[name][16] - medians[name][1]) / 15
    print(f"{name}: a silent stream more costs {silent:.2f} ms a row")
    _TABLES["silent_stream_ms"] = silent


def others() -> Iterator[Goal]:
    """Against llama.cpp and transformers, at equal work."""
    name, medians = _steps()
    targets = {10: (2.5, ">= 2.5"), 1: (0.9, ">= 0.9")}
    for width, (least, target) in targets.items():
        what = f"{name}: tokens/s over {LLAMA}, {width} a step"
        if LLAMA not in medians:
            yield missing("2", what, "llama.cpp is not installed", target)
            continue
        ratio = medians[LLAMA][width] / medians[name][width]
        yield Goal("2", what, ratio, "x", target, ratio >= least)
    yield from _fidelity(name)
    yield _against_generate(name)


def floor() -> Iterator[Goal]:
    """A step against the time that reading its bytes takes, both in turns."""
    name, backend = _fast()
    stepper = BackendStepper(_base(), backend)
    times: dict[int, list[float]] = {1: [], 10: []}

    def step() -> None:
        for width, took in times.items():
            time.sleep(REST)
            took += [1e3 * stepper.step(width) for _ in range(BURST + 1)][1:]

    bandwidth, way = read_bandwidth(backend, 40 if FULL else 15, step)
    stepper.close()
    read = growth.weight_bytes(_base(), backend, name)
    read += ROWS * growth.cell_bytes(_base(), backend)
    least = 1e3 * read / bandwidth
    print(f"{name}: {read / 1e6:.0f} MB a step, {bandwidth / 1e9:.1f} GB/s ({way}), "
          f"floor {least:.2f} ms")  # fmt: skip
    _TABLES["floor"] = {"bytes": read, "bandwidth": bandwidth, "by": way, "ms": least}
    for width, most in ((1, 1.6), (10, 2.0)):
        ratio = statistics.median(times[width]) / least
        what = f"{name}: step of {width} over its memory floor of {least:.2f} ms"
        yield Goal("3", what, ratio, "x", f"<= {most:g}", ratio <= most)


def sessions() -> Iterator[Goal]:
    """64 live sessions of four streams against one."""
    name, engine = _engine()
    numbers, rows = (1, 4, 16, 64), 48 if FULL else 16
    loads = {number: load.Load(number) for number in numbers}
    for turn in range(4 if FULL else 2):
        for number in numbers:
            # As many steps matter for the few as for the many; the few are quick.
            measured = load.steady(engine, number, rows if number > 4 else 3 * rows, SEED + turn)
            loads[number].add(measured)
            loads[number].cache_bytes = measured.cache_bytes
            loads[number].rss_bytes = max(loads[number].rss_bytes, measured.rss_bytes)
    one, many = loads[1], loads[64]
    busy = load.coming_and_going(engine, 64, 400 if FULL else 80, SEED)
    _print_loads(name, loads, busy)
    ratio = many.tokens_per_second / one.tokens_per_second
    what = f"{name}: 64 sessions of 4 streams, tokens/s over one session's"
    yield Goal("4", what, ratio, "x", ">= 6", ratio >= 6)
    for which, measured in (("all there", many), ("coming and going", busy)):
        tail = measured.gap_ms(99) / measured.gap_ms(50)
        what = (
            f"{name}: 64 sessions {which}, row latency p99 over p50 ({measured.gap_ms(50):.0f} ms)"
        )
        yield Goal("4", what, tail, "x", "< 3", tail < 3)
        even = min(measured.rows) / max(measured.rows)
        what = f"{name}: 64 sessions {which}, rows of the slowest over those of the fastest"
        yield Goal("4", what, even, "x", ">= 0.5", even >= 0.5)


def company() -> Iterator[Goal]:
    """Tables do not depend on what else is in the batch."""
    from benchmarks.company import GREEDY, WARM, equal_tables, scripts

    lm = MultiStreamLM.from_pretrained(MODEL, device="cpu", dtype="float32")
    codec, number = load_codec(MODEL), 32 if FULL else 8
    goals = [("transformers", "greedy"), ("transformers", "sampled")]
    goals += [(name, "greedy") for name in EXACT[1:]]
    reported = [name for name in dict.fromkeys((_fast()[0], "cpu:int8")) if name not in EXACT]
    for name, how in [*goals, *((name, "greedy") for name in reported)]:
        what = f"{name}, {how}: tables that are the same alone and among others"
        is_goal = (name, how) in goals
        backend = open_any(name, lm)
        if backend is None:
            if is_goal:
                yield missing("5", what, "it cannot be opened here", "all")
            continue
        played = scripts(codec, number, GREEDY if how == "greedy" else WARM, SEED)
        same = equal_tables(lm, codec, backend, played)
        if is_goal:
            yield Goal("5", what, same, f"of {number}", "all", same == number)
        else:
            print(f"{what}: {same} of {number} (no goal)")
            _TABLES[f"company {name}"] = [same, number]


def long_tables() -> Iterator[Goal]:
    """Silence leaves nothing in the cache, and 8,000 rows slow down by attention only."""
    name, engine = _engine()
    added = growth.silent_bytes(BASE, name)
    what = f"{name}: bytes in the cache of 9 silent streams over 64 rows"
    if added is None:
        yield missing("6", what, "the back end does not tell its bytes", "0")
    else:
        yield Goal("6", what, added, "bytes", "0", added == 0)
    bandwidth, _ = read_bandwidth(_fast()[1])
    points = growth.rows_cost(engine, steps=48 if FULL else 12)
    first, last = points[0], points[-1]
    print(growth.table(points, bandwidth, engine.model))
    _TABLES["growth"] = [asdict(point) for point in points]
    share = 1e3 * (last.cache_bytes - first.cache_bytes) / bandwidth
    slower = (last.ms - first.ms) / share
    what = (
        f"{name}: what a row at {last.rows} costs more than at {first.rows} "
        f"({last.ms - first.ms:.1f} ms), over reading the cache ({share:.1f} ms)"
    )
    yield Goal("6", what, slower, "x", "<= 1.6", slower <= 1.6)


def _fidelity(name: str) -> Iterator[Goal]:
    from benchmarks import quality

    what = f"{name}: KL to fp32 on prose over that of llamacpp:q4_0"
    costs = {c.backend: c for c in quality.measure((name, "llamacpp:q4_0"), texts=("prose",))}
    print(quality.table(list(costs.values())))
    _TABLES["fidelity"] = [asdict(cost) for cost in costs.values()]
    if "llamacpp:q4_0" not in costs:
        yield missing("2", what, "llama.cpp is not installed", "< 1")
        return
    ratio = costs[name].kl / costs["llamacpp:q4_0"].kl
    yield Goal("2", what, ratio, "x", "< 1", ratio < 1)


def _against_generate(name: str) -> Goal:
    from benchmarks.generate import per_second, token_times

    bursts = 20 if FULL else 6
    theirs, ours = token_times(BASE, _base(), _fast()[1], bursts=bursts, seed=SEED)
    rates = per_second(ours), per_second(theirs)
    _TABLES["generate"] = {"engine": rates[0], "transformers": rates[1]}
    what = (
        f"{name}: one stream through the engine ({rates[0]:.0f} tokens/s) over transformers' "
        f"generate in bf16 ({rates[1]:.0f})"
    )
    ratio = rates[0] / rates[1]
    return Goal("2", what, ratio, "x", ">= 4", ratio >= 4)


def _print_loads(name: str, loads: dict[int, load.Load], busy: load.Load) -> None:
    print(f"{name}: sessions of four streams, all talking; tokens are those of the three outputs")
    print(f"{'sessions':>9}{'tokens/s':>10}{'times one':>10}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}"
          f"{'cache MB each':>15}{'RSS MB each':>13}")  # fmt: skip
    one, told = loads[1].tokens_per_second, []
    for number, measured in [*loads.items(), (64, busy)]:
        cached = (measured.cache_bytes or 0) / number / 1e6
        row = {
            "sessions": number, "coming_and_going": measured is busy,
            "tokens_per_s": measured.tokens_per_second,
            "p50_ms": measured.gap_ms(50), "p90_ms": measured.gap_ms(90),
            "p99_ms": measured.gap_ms(99), "cache_mb_each": cached,
            "rss_mb_each": measured.rss_bytes / number / 1e6,
        }  # fmt: skip
        told.append(row)
        mark = "*" if measured is busy else " "
        print(f"{number:8}{mark}{row['tokens_per_s']:10.0f}{row['tokens_per_s'] / one:10.2f}"
              f"{row['p50_ms']:9.1f}{row['p90_ms']:9.1f}{row['p99_ms']:9.1f}"
              f"{cached:15.2f}{row['rss_mb_each']:13.2f}")  # fmt: skip
    if busy.waits:
        waits = sorted(busy.waits)
        first = waits[len(waits) // 2], waits[-1]
        print(f"* coming and going: {len(waits)} newcomers, first row after {first[0]:.2f} s "
              f"(median), {first[1]:.2f} s at most")  # fmt: skip
    _TABLES["sessions"] = told


@cache
def _base() -> MultiStreamLM:
    return MultiStreamLM.from_pretrained(BASE, device="cpu")


@cache
def _fast() -> tuple[str, Backend]:
    """The fast back end on the base model."""
    return open_fast(_base())


@cache
def _engine() -> tuple[str, Engine]:
    """An engine of the shipped checkpoint on the fast back end."""
    lm = MultiStreamLM.from_pretrained(MODEL, device="cpu")
    name, backend = open_fast(lm)
    return name, Engine(lm, load_codec(MODEL), backend=backend, prefix_cache=False)


@cache
def _steps() -> tuple[str, Medians]:
    """Name of the fast back end, and the table of all back ends and widths."""
    name, backend = _fast()
    steppers: dict[str, Stepper] = {name: BackendStepper(_base(), backend)}
    llama = _plain_llama()
    if llama is not None:
        steppers[LLAMA] = llama
    for other in BACKENDS:
        if other != name and (opened := open_any(other, _base())) is not None:
            steppers[other] = BackendStepper(_base(), opened)
    medians = interleaved(steppers, rounds=40 if FULL else 8)
    print(table(medians, f"ms per step, {BASE}, {ROWS} cells cached"))
    _TABLES["step_ms"] = medians
    for stepper in steppers.values():
        if isinstance(stepper, BackendStepper):
            stepper.close()
    return name, medians


def _plain_llama() -> Stepper | None:
    try:
        from benchmarks.llamacpp import PlainLlama
    except ImportError as error:
        print(f"{LLAMA}: left out ({error})", file=sys.stderr)
        return None
    return PlainLlama(_base(), "q4_0")


MEASURES = {
    "1": step_cost,
    "2": others,
    "3": floor,
    "4": sessions,
    "5": company,
    "6": long_tables,
}


if __name__ == "__main__":
    sys.exit(bench("engine", MEASURES, sys.argv[1:], SEED, _TABLES))
