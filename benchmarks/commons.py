"""``make bench-commons``: the figures behind the goals of the commons.

Sections are functions in ``MEASURES``; ``python -m benchmarks.commons speed`` runs one of them.
"""

import asyncio
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.endpoint import Endpoint
from benchmarks.goal import Goal, Measure, missing, run
from benchmarks.kills import endure
from stretto.agents.chat_wire import digest
from stretto.commons.driver import drive
from stretto.commons.fleet import Fleet
from stretto.commons.model_config import ModelConfig, open_models
from stretto.commons.play import JOURNAL, play
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.commons.sweep import Sweep, prepare, results, run_folder

ROOT = Path(__file__).parents[1]
LATENCY = 0.2
PAPER: dict[str, Any] = {"seats": [{"model": "m"}], "profile": "paper"}


def say_villager(body: dict[str, Any]) -> str:
    """What a villager of few words answers, another one to every question; nobody ends a talk."""
    name = digest(body)[:8]
    own = {"units": 10, "done": False, "rating": 5, "limit": 10, "insights": [f"Ten {name}."] * 3}
    schema = body["response_format"]["json_schema"]["schema"]
    value = {}
    for key, part in schema["properties"].items():
        some = part.get("enum") or [f"Words {name}."]
        value[key] = own.get(key, some[int(name, 16) % len(some)])
    return json.dumps(value)


def say_late(body: dict[str, Any]) -> str:
    """The same, sooner or later by chance."""
    time.sleep(random.random() * 0.004)
    return say_villager(body)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="bench-commons-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def oracles() -> Iterator[Goal]:
    """The reference's trajectories and rationing; records of others, re-scored."""
    yield from _tests("1", "trajectories and rationing of the reference", "test_oracles.py")
    yield from _tests("1", "records of others re-scored, printed over-usage", "test_importers.py")


def _tests(goal: str, what: str, *names: str) -> Iterator[Goal]:
    """Tests as a goal: all of them pass, and none is left out."""
    paths = [f"tests/commons/{name}" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = done.stdout.strip().splitlines()[-1]
    passed, failed, skipped = (
        int(found[1]) if (found := re.search(rf"(\d+) {word}", told)) else 0
        for word in ("passed", "(?:failed|error)", "skipped")
    )
    if not passed:
        yield missing(goal, what, told, "0")
        return
    yield Goal(goal, f"{what}: failed, of {passed + failed}", failed, "tests", "0", not failed)
    note = "no dev pack here?" if skipped else "none"
    yield Goal(goal, f"{what}: left out ({note})", skipped, "tests", "0", not skipped)


def same() -> Iterator[Goal]:
    """The same seeds give the same bytes, whatever the processes and the timing."""
    ways = ((1, 1), (1, 8), (2, 3))
    factors = {"switches.order": ["paper", "corrected"]}
    sweep = partial(Sweep, PAPER | {"rules": {"months": 2}}, factors, seeds=10)
    logs: dict[str, set[str]] = {}
    with Endpoint(say_late, latency=0.01, in_process=False) as endpoint:
        for workers, together in ways:
            models = {"m": ModelConfig("mock", base_url=endpoint.url)}
            with folder() as path:
                planned = prepare(sweep(models=models), path)
                drive(path, workers=workers, together=together)
                for one in planned:
                    content = (run_folder(path, one.id) / JOURNAL).read_bytes()
                    logs.setdefault(one.id, set()).add(hashlib.sha256(content).hexdigest())
    wrong = sum(len(found) > 1 for found in logs.values())
    what = f"runs whose log differs between {len(ways)} ways to share them out, of {len(logs)}"
    yield Goal("2", what, wrong, "runs", "0", wrong == 0)


def speed() -> Iterator[Goal]:
    """Paper-profile runs against an endpoint of 200 ms: ours, and one request at a time."""
    with Endpoint(say_villager, latency=LATENCY, in_process=False) as endpoint:
        config = RunConfig((Seat("m"),), profile="paper")
        months, ours = asyncio.run(_played(config, endpoint.url, 64))
        _, theirs = asyncio.run(_played(config, endpoint.url, 1))
        what = f"paper profile, {months} months, five villagers, {LATENCY * 1e3:g} ms a request"
        yield Goal("3", f"{what}: one request at a time", theirs, "s", "", True)
        yield Goal("3", f"{what}: ours", ours, "s", "", True)
        ratio = theirs / ours
        yield Goal("3", f"{what}: how many times faster", ratio, "x", ">= 3.5", ratio >= 3.5)
        with folder() as path:
            models = {"m": ModelConfig("mock", base_url=endpoint.url, concurrency=400)}
            prepare(Sweep(PAPER, seeds=64, models=models), path)
            began = time.perf_counter()
            end = drive(path, workers=2, together=32)
            many = time.perf_counter() - began
            whole = all(metrics["months"] == months for _, metrics in results(path))
        yield Goal("3", "64 such runs in parallel", many, "s", "", True)
        ratio = 64 * theirs / many if end.done == 64 and whole else 0.0
        what = "64 such runs: how many times faster than one request at a time"
        yield Goal("3", what, ratio, "x", ">= 40", ratio >= 40)


async def _played(config: RunConfig, url: str, concurrency: int) -> tuple[int, float]:
    """Months and seconds of one run, with so many requests under way at most."""
    models = {"m": ModelConfig("mock", base_url=url, concurrency=concurrency)}
    async with AsyncExitStack() as stack:
        opened = await open_models(stack, models)
        await play(RunConfig((Seat("m"),), rules=Rules(months=1), profile="lean"), opened)
        began = time.perf_counter()
        game = await play(config, opened)
        return game.months, time.perf_counter() - began


def environment() -> Iterator[Goal]:
    """Many villages as one array program."""
    rules = Rules()
    for how, units in (("enough for all", 10), ("too little for all", 30)):
        rates = {}
        for agents in (1_000, 10_000, 100_000):
            rates[agents] = max(_rate(rules, agents, units) for _ in range(3))
            what = f"agent-months a second, {agents:,} agents, {how}"
            target = ">= 1e6" if agents == 100_000 else ""
            met = rates[agents] >= 1e6 or not target
            yield Goal("3", what, rates[agents], "1/s", target, met)
        ratio = rates[100_000] / rates[10_000]
        what = f"rate at 100,000 agents over that at 10,000, {how}"
        yield Goal("3", what, ratio, "x", ">= 0.8", ratio >= 0.8)


def _rate(rules: Rules, agents: int, units: int) -> float:
    """Agent-months a second; villages that collapse begin anew, so all are alive all the time."""
    villages = agents // rules.villagers
    demands = np.full((villages, rules.villagers), units, np.int64)
    months, seconds = 0, 0.0
    while seconds < 1.0:
        fleet = Fleet(rules, villages, seed=months)
        began = time.perf_counter()
        while True:
            fleet.harvest(demands)
            months += 1
            if fleet.ended:
                break
            fleet.grow()
        seconds += time.perf_counter() - began
    return agents * months / seconds


def kills() -> Iterator[Goal]:
    """200 runs whose workers and drivers are killed at random."""
    with folder() as path:
        told = endure(path, seeds=50, kills=20)
    killed = f"{told.drivers} drivers and {told.workers} workers killed"
    enough = told.runs == 200 and told.drivers > 0 and told.workers > 0
    yield Goal("4", f"runs lost, of {told.runs}; {killed}", told.lost, "runs", "0",
               not told.lost and enough)  # fmt: skip
    yield Goal("4", "runs counted twice", told.twice, "runs", "0", not told.twice)
    answered = told.questions - told.kept
    yield Goal("4", f"answers lost, of {told.questions}", answered, "answers", "0", not answered)
    what = "requests repeated though their answer had been kept, or no kill had come between"
    yield Goal("4", what, told.unexcused, "requests", "0", not told.unexcused)
    what = "requests asked again that a kill had left without an answer"
    yield Goal("4", what, told.again, "requests", "", True)


def _units(value: Any) -> Callable[[dict[str, Any]], str]:
    return lambda body: json.dumps({"reasoning": "", "units": value, "note": ""})


# What the endpoint says or does -> the outcome that must be recorded.
OUTCOMES: dict[str, tuple[Any, str]] = {
    "10 units": (_units(10), "ok"),
    "10.0 units": (_units(10.0), "ok"),
    "101 units": (_units(101), "invalid"),
    "-1 units": (_units(-1), "invalid"),
    "10.5 units": (_units(10.5), "invalid"),
    "units in words": (_units("ten"), "invalid"),
    "no units": (lambda body: '{"reasoning": "", "note": ""}', "invalid"),
    "words without JSON": (lambda body: "I take ten tons.", "invalid"),
    "JSON that is cut off": (lambda body: '{"reasoning": "I tak', "invalid"),
    "an empty text": ("empty", "empty"),
    "a refusal": ("refusal", "refused"),
    "a filter": ("filter", "refused"),
    "no word in time": ("hang", "timeout"),
    "an error 500": ("500", "error"),
    "an error 429": ("429", "error"),
    "an error 401": ("401", "error"),
    "a broken line": ("drop", "error"),
    "a page instead of JSON": ("html", "error"),
}


def outcomes() -> Iterator[Goal]:
    """Each way to go wrong is recorded as what it was, counted, and harvests nothing."""
    for what, (said, wanted) in OUTCOMES.items():
        how: dict[str, Any] = {"fails": [said] * 99} if isinstance(said, str) else {"answer": said}
        with Endpoint(**how) as endpoint, folder() as path:
            seats = (Seat("m"), *[Seat("script:threshold")] * 4)
            config = RunConfig(
                seats, rules=Rules(months=1), talk="none", attempts=2, timeout=0.5
            )  # fmt: skip
            game = asyncio.run(_one(config, endpoint.url, path))
            lines = map(json.loads, (path / JOURNAL).read_text().splitlines())
            found = next(e["outcome"] for e in lines if e["type"] == "answer")
        good = found == wanted and bool(game.valid[0, 0]) == (wanted == "ok")
        good = good and int(game.received[0, 0]) == (10 if wanted == "ok" else 0)
        yield Goal("5", f"{what}: recorded as {found}", int(good), "", f"1 ({wanted})", good)


async def _one(config: RunConfig, url: str, path: Path) -> Any:
    async with AsyncExitStack() as stack:
        models = {"m": ModelConfig("mock", base_url=url, retries=0)}
        return await play(config, await open_models(stack, models), path)


def demo() -> Iterator[Goal]:
    """``make demo-commons``: the small model on this machine, and a report."""
    with folder() as path:
        stretto = [sys.executable, "-m", "stretto", "commons"]
        began = time.perf_counter()
        for command in (
            [*stretto, "sweep", ROOT / "examples/commons-demo.yaml", "--output", path / "sweep"],
            [*stretto, "report", path / "sweep"],
        ):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                yield missing("6", "demo", done.stderr.strip().splitlines()[-1], "<= 600")
                return
        seconds = time.perf_counter() - began
        found = [metrics for _, metrics in results(path / "sweep")]
        pages = list((path / "sweep" / "report").glob("*.html"))
    yield Goal("6", f"demo: {len(found)} runs and a report", seconds, "s", "<= 600",
               seconds <= 600 and bool(pages))  # fmt: skip
    strict = [metrics["strict"] for metrics in found]
    for name in ("survived", "survival_time", "efficiency", "invalid"):
        mean = sum(one[name] for one in strict) / len(strict)
        yield Goal("6", f"demo, as it is: {name}, mean of {len(strict)} runs", mean, "", "", True)


MEASURES: dict[str, Measure] = {
    "oracles": oracles, "same": same, "speed": speed, "environment": environment, "kills": kills,
    "outcomes": outcomes, "demo": demo,
}  # fmt: skip


def main() -> int:
    """Measure all sections, or those named on the command line."""
    wanted = sys.argv[1:] or list(MEASURES)
    return run("commons", {name: MEASURES[name] for name in wanted})


if __name__ == "__main__":
    sys.exit(main())
