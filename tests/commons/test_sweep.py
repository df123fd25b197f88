"""Sweeps: planned, played, killed at random points and finished; nothing lost, counted or paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.endpoint import Endpoint
from stretto.commons.driver import Progress, drive
from stretto.commons.ledger import Ledger
from stretto.commons.model_config import ModelConfig
from stretto.commons.sweep import Sweep, load, plan, prepare, results, run_folder
from stretto.commons.worker import Limits, work
from stretto.errors import ConfigError, InputError, LimitError
from stretto.protocols import Usage

SCRIPTED = {"seats": [{"model": "script:threshold"}], "rules": {"months": 2}}


def asking(url: str, seeds: int = 3) -> Sweep:
    run = {"seats": [{"model": "m"}], "rules": {"months": 2}, "talk": "none"}
    models = {"m": ModelConfig("mock", base_url=url, prices=(1.0, 1.0))}
    return Sweep(run, {"sees_catches": [True, False]}, seeds=seeds, models=models)


def test_a_plan_has_every_condition_and_seed() -> None:
    sweep = Sweep(
        SCRIPTED, {"talk": ["meeting", "none"], "rules.months": [2, 3]},
        {"plain": {}, "told": {"told_threshold": "number", "rules": {"capacity": 60}}}, seeds=3,
    )  # fmt: skip
    planned = plan(sweep)
    assert len(planned) == len({one.id for one in planned}) == 2 * 2 * 2 * 3
    told = [one for one in planned if one.condition["condition"] == "told"]
    assert {one.config.rules.capacity for one in told} == {60}
    assert {one.config.rules.months for one in told} == {2, 3}
    assert Counter(one.seed for one in planned) == {0: 8, 1: 8, 2: 8}
    with pytest.raises(ConfigError, match="talk"):
        plan(Sweep(SCRIPTED, {"talks": ["none"]}))
    with pytest.raises(ConfigError, match="the same"):
        plan(Sweep(SCRIPTED, seeds=(1, 1)))
    with pytest.raises(ConfigError, match="at least one"):
        plan(Sweep(SCRIPTED, seeds=0))


def test_a_folder_is_of_one_sweep(tmp_path: Path) -> None:
    prepare(Sweep(SCRIPTED), tmp_path)
    prepare(Sweep(SCRIPTED), tmp_path)
    with pytest.raises(InputError, match="another sweep"):
        prepare(Sweep(SCRIPTED, seeds=2), tmp_path)
    with pytest.raises(InputError, match="holds no sweep"):
        load(tmp_path / "nothing")


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    prepare(Sweep(SCRIPTED, {"rules.capacity": [50, 100]}, seeds=10), tmp_path)
    told: list[Progress] = []
    end = drive(tmp_path, workers=2, together=2, on_progress=told.append)
    assert (end.done, end.runs, end.wrong) == (20, 20, {})
    assert told[0].done == 0
    found = list(results(tmp_path))
    assert len(found) == 20
    assert all(metrics["strict"]["survived"] for _, metrics in found)
    for one, _ in found:
        lines = (run_folder(tmp_path, one.id) / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["type"] for line in lines] == ["created", "played", "finished"]


def test_a_budget_of_all_processes_stops_the_sweep(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        prepare(asking(endpoint.url), tmp_path)
        wrong = work(tmp_path, together=1, limits=Limits(requests=25))
        assert "budget of 25 requests" in wrong[""]
        assert len(endpoint.asked) == 25
        assert work(tmp_path, together=1, limits=Limits(requests=60)) == {}
        assert len(endpoint.asked) == 60
        assert len(list(results(tmp_path))) == 6


def test_a_ledger_is_one_for_all(tmp_path: Path) -> None:
    one, two = (Ledger(tmp_path / "ledger.jsonl", dollars=1.0, requests=3) for _ in range(2))
    one.take()
    one.book(Usage(10, 20, 0.25))
    two.take()
    assert (two.spent_requests, two.spent_dollars, two.spent_tokens) == (2, 0.25, 30)
    one.take()
    with pytest.raises(LimitError, match="3 requests"):
        two.take()
    assert Ledger(tmp_path / "ledger.jsonl").spent_requests == 3


DRIVER = """
import sys
from pathlib import Path
from stretto.commons.driver import drive
if __name__ == "__main__":
    drive(Path(sys.argv[1]), workers=2, together=2)
"""


def kill_somebody(driver: subprocess.Popen, rng: np.random.Generator) -> None:
    """The driver, or one of its workers."""
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    workers = [
        int(pid) for pid in children
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip
    victim = driver.pid if rng.random() < 0.4 or not workers else int(rng.choice(workers))
    os.kill(victim, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for workers in /proc")
def test_kills_lose_nothing_count_nothing_twice_and_pay_nothing_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    folder = tmp_path / "sweep"
    with Endpoint(latency=0.02) as endpoint:
        planned = prepare(asking(endpoint.url, seeds=6), folder)
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        for _ in range(6):
            driver = subprocess.Popen([sys.executable, script, folder], env=environment)
            time.sleep(rng.uniform(1.0, 3.0))
            if driver.poll() is None:
                kill_somebody(driver, rng)
                time.sleep(rng.uniform(0.0, 1.0))
            driver.kill()
            driver.wait()
        end = drive(folder, workers=2, together=2)
        assert (end.done, end.wrong) == (12, {})
        assert sorted(metrics["id"] for _, metrics in results(folder)) == sorted(
            one.id for one in planned
        )
        # A kill between an answer's arrival and its line in the cache is a request asked again:
        # at most one for each run under way in a killed process.
        asked = Counter(json.dumps(body, sort_keys=True) for body in endpoint.asked)
        cached = (folder / "cache.jsonl").read_text().splitlines()
        keys = [json.loads(line)["key"] for line in cached if line.strip()]
        assert len(keys) == len(set(keys)) == len(asked)
