"""Sweeps: planned, played, killed at random, finished; nothing lost, counted or paid twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from filelock import FileLock

from benchmarks.endpoint import Endpoint
from benchmarks.kills import DRIVER, Survived, asking, endure, say_digest
from stretto.commons.driver import Progress, drive
from stretto.commons.ledger import Ledger
from stretto.commons.model_config import ModelConfig
from stretto.commons.sweep import Sweep, load, plan, prepare, results, run_folder
from stretto.commons.worker import Limits, work
from stretto.errors import ConfigError, InputError, LimitError
from stretto.protocols import Completion, Usage

SCRIPTED = {"seats": [{"model": "script:threshold"}], "rules": {"months": 2}}


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
    assert len(prepare(Sweep(SCRIPTED, seeds=7), tmp_path)) == len(load(tmp_path)[1]) == 7
    named = Sweep(SCRIPTED, conditions={"a": {"talk": "none"}})
    prepare(named, tmp_path / "named")
    with pytest.raises(InputError, match="another sweep"):
        prepare(replace(named, conditions={"a": {"talk": "round"}}), tmp_path / "named")
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
    with Endpoint(latency=0.2) as endpoint:
        prepare(asking(endpoint.url, 1, months=2), tmp_path)
        # 23 is in the middle of a month: what was sent is answered and kept all the same.
        wrong = work(tmp_path, together=1, limits=Limits(requests=23))
        assert "budget of 23 requests" in wrong[""]
        assert len(endpoint.asked) == 23
        assert work(tmp_path, together=1, limits=Limits(requests=30)) == {}
        assert len(endpoint.asked) == 30
        assert len(list(results(tmp_path))) == 4


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


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="looks for workers in /proc"
)


def check(survived: Survived) -> None:
    assert (survived.lost, survived.twice) == (0, 0)
    assert survived.kept == survived.questions
    # What a kill left without an answer has to be asked again; nothing else is.
    assert survived.unexcused == 0
    assert survived.drivers + survived.workers > 0


@needs_proc
def test_kills_lose_nothing_count_nothing_twice_and_pay_nothing_twice(tmp_path: Path) -> None:
    check(endure(tmp_path, seeds=3, kills=2, months=4, latency=0.15, pause=(0.1, 0.5)))


@needs_proc
@pytest.mark.slow
def test_200_runs_survive_kills(tmp_path: Path) -> None:
    check(endure(tmp_path, seeds=50, kills=12))


def test_two_processes_ask_a_common_question_once(tmp_path: Path) -> None:
    with Endpoint(say_digest, latency=0.3) as endpoint:
        prepare(asking(endpoint.url, 1, months=1), tmp_path)
        assert drive(tmp_path, workers=2, together=1).done == 4
    # Memory makes no difference in the first month, so two conditions ask what two others ask.
    assert len(endpoint.asked) == 10


def test_what_one_worker_leaves_another_takes_up(tmp_path: Path) -> None:
    (one,) = prepare(Sweep(SCRIPTED, seeds=1), tmp_path)
    path = run_folder(tmp_path, one.id)
    path.mkdir(parents=True)
    lock = FileLock(path / ".lock", thread_local=False)
    lock.acquire()
    Timer(1.0, lock.release).start()
    assert work(tmp_path) == {}
    assert len(list(results(tmp_path))) == 1


def test_a_run_that_fails_is_told_and_stops_nobody(tmp_path: Path) -> None:
    crooked = {"seats": [{"model": "script:threshold"}], "rules": {"months": 2}}
    prepare(Sweep(crooked, {"scenario": ["fishery", "no such place"]}, seeds=2), tmp_path)
    end = drive(tmp_path)
    assert end.done == 2 and len(end.wrong) == 2
    assert all("no such place" in why for why in end.wrong.values())


def test_a_defect_of_a_plug_in_is_told_and_stops_nobody(tmp_path: Path) -> None:
    seats = [{"model": "m"}, *[{"model": "script:threshold"}] * 4]
    models = {"m": ModelConfig("local:x")}
    prepare(Sweep({"seats": seats, "talk": "none"}, seeds=2, models=models), tmp_path)
    wrong = work(tmp_path, together=1, local="tests.commons.test_commons_sweep:open_broken")
    assert list(wrong.values()) == ["KeyError: 'oh'"] * 2


def open_broken(name: str) -> Any:
    class Broken:
        name, scripted = "broken", False

        async def complete(self, *_: Any, **__: Any) -> Completion:
            raise KeyError("oh")

    return Broken()


def test_a_sweep_that_cannot_begin_says_why(tmp_path: Path) -> None:
    run = {"seats": [{"model": "m"}]}
    prepare(Sweep(run, models={"m": ModelConfig("local:x")}), tmp_path)
    assert "local models are not available" in drive(tmp_path).wrong[""]


def test_an_endpoint_that_is_down_stops_the_sweep(tmp_path: Path) -> None:
    with Endpoint(fails=["404"] * 22) as endpoint:
        prepare(asking(endpoint.url, 2, months=2), tmp_path)
        wrong = work(tmp_path, together=2)
        assert "gave no answer 20 times in a row" in wrong[""]
        assert len(endpoint.asked) < 40
        assert work(tmp_path) == {}
        assert len(list(results(tmp_path))) == 8


def test_a_worker_that_is_asked_to_stop_keeps_what_it_paid_for(tmp_path: Path) -> None:
    with Endpoint(say_digest, latency=0.5) as endpoint:
        prepare(asking(endpoint.url, 2, months=2), tmp_path)
        script = tmp_path / "driver.py"
        script.write_text(DRIVER)
        driver = subprocess.Popen(
            [sys.executable, script, tmp_path, "4"], stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
        while not endpoint.asked:
            time.sleep(0.02)
        driver.send_signal(signal.SIGINT)
        _, told = driver.communicate()
        assert told.decode().strip().endswith("KeyboardInterrupt")
        asked = len(endpoint.asked)
        assert asked == len((tmp_path / "cache.jsonl").read_text().splitlines()) < 60
        assert work(tmp_path) == {}
        bodies = Counter(json.dumps(body) for body in endpoint.asked)
        assert bodies.total() == len(bodies)
