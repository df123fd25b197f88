"""A sweep whose workers and drivers are killed at random, and what came of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.endpoint import Endpoint, say_four
from stretto.agents.chat_wire import digest
from stretto.commons.model_config import ModelConfig
from stretto.commons.sweep import Sweep, prepare, results
from stretto.commons.worker import work

DRIVER = """
import sys
from pathlib import Path
from stretto.commons.driver import drive
if __name__ == "__main__":
    drive(Path(sys.argv[1]), workers=2, together=int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Survived:
    """What came of a sweep.

    Attributes:
        runs: planned.
        lost: of them, without a result at the end.
        twice: results beyond one a run, or of no planned run.
        questions: different requests that were asked.
        kept: of them, with an answer in the cache.
        again: requests beyond one a question.
        unexcused: of those, asked again though no kill left them without an answer.
        drivers: killed.
        workers: killed.
    """

    runs: int
    lost: int
    twice: int
    questions: int
    kept: int
    again: int
    unexcused: int
    drivers: int
    workers: int


def asking(url: str, seeds: int, months: int = 3) -> Sweep:
    """Four conditions; the first month's questions are the same in two and two of them."""
    run = {"seats": [{"model": "m"}], "rules": {"months": months}, "talk": "none"}
    factors = {"sees_catches": [True, False], "memory": [True, False]}
    models = {"m": ModelConfig("mock", base_url=url, prices=(1.0, 1.0))}
    return Sweep(run, factors, seeds=seeds, models=models)


def say_digest(body: dict[str, Any]) -> str:
    """Take ten, and say which question this answers."""
    return json.dumps(json.loads(say_four(body)) | {"units": 10, "reasoning": digest(body)})


def endure(
    folder: Path, *, seeds: int, kills: int, months: int = 3, latency: float = 0.1,
    together: int = 4, pause: tuple[float, float] = (0.5, 2.5), seed: int = 0,
) -> Survived:  # fmt: skip
    """Play four runs a seed; kill drivers and workers; finish; count.

    Args:
        folder: for the sweep.
        seeds: of each condition.
        kills: at most; a sweep that is done earlier ends them.
        months: of each run.
        latency: of the endpoint, seconds.
        together: runs at once in each of two processes.
        pause: seconds between kills, from and to; processes take a second or more to start.
        seed: of the times and the victims.
    """
    rng, killed = np.random.default_rng(seed), Counter[str]()
    with Endpoint(say_digest, latency=latency) as endpoint:
        planned = prepare(asking(endpoint.url, seeds, months), folder)
        village = _Watched(folder, endpoint)
        driver = _start(folder, together)
        while killed.total() < kills:
            while village.is_quiet():  # whoever starts, let it begin
                if driver.poll() is not None:
                    break
                time.sleep(0.02)
            time.sleep(rng.uniform(*pause))
            if driver.poll() is not None:
                break
            workers = _workers(driver.pid)
            victim = "driver" if rng.random() < 0.4 or not workers else "worker"
            os.kill(driver.pid if victim == "driver" else int(rng.choice(workers)), signal.SIGKILL)
            killed[victim] += 1
            village.note_kill()
            if victim == "driver":
                driver.wait()
                driver = _start(folder, together)
        driver.kill()
        driver.wait()
        village.note_kill()
        work(folder, together=together)
        found = [metrics["id"] for _, metrics in results(folder)]
        ids = {one.id for one in planned}
        asked = village.asked()
        return Survived(
            len(planned), len(ids - set(found)), len(found) - len(ids & set(found)), len(asked),
            len(village.kept() & set(asked)), asked.total() - len(asked), village.unexcused(),
            killed["driver"], killed["worker"],
        )  # fmt: skip


class _Watched:
    """What was asked and kept, and what was neither answered nor lost but by a kill."""

    def __init__(self, folder: Path, endpoint: Endpoint) -> None:
        self._cache, self._endpoint = folder / "cache.jsonl", endpoint
        self._excused, self._seen = Counter[str](), 0

    def asked(self) -> Counter[str]:
        return Counter(digest(body) for body in self._endpoint.asked)

    def kept(self) -> set[str]:
        if not self._cache.exists():
            return set()
        lines = self._cache.read_text().splitlines()
        whole = [line for line in lines if line.endswith("}")]
        return {json.loads(json.loads(line)["completion"]["text"])["reasoning"] for line in whole}

    def is_quiet(self) -> bool:
        return len(self._endpoint.asked) == self._seen

    def note_kill(self) -> None:
        """What is asked and not kept now may be asked once more."""
        waiting = self.asked().keys() - self.kept()
        time.sleep(0.1)  # a request that was sent may still be on its way to the endpoint
        waiting |= self.asked().keys() - self.kept()
        self._excused.update(waiting)
        self._seen = len(self._endpoint.asked)

    def unexcused(self) -> int:
        return sum(max(0, n - 1 - self._excused[body]) for body, n in self.asked().items())


def _start(folder: Path, together: int) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    script = folder / "driver.py"
    script.write_text(DRIVER)
    return subprocess.Popen([sys.executable, script, folder, str(together)], env=environment)


def _workers(driver: int) -> list[int]:
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return [
        int(pid) for pid in children
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip
