"""A sweep on Ray, one of whose workers is killed."""

import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest

ray = pytest.importorskip("ray")

from benchmarks.endpoint import Endpoint  # noqa: E402
from benchmarks.kills import asking, say_digest  # noqa: E402
from stretto.commons.driver import drive  # noqa: E402
from stretto.commons.sweep import prepare, results  # noqa: E402

pytestmark = pytest.mark.slow


def workers() -> list[int]:
    """Processes that run a task of a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::_work"):
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for workers in /proc")
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        while not (endpoint.asked and (found := workers())):
            time.sleep(0.05)
        os.kill(found[0], signal.SIGKILL)
        killed.append(found[0])

    with Endpoint(say_digest, latency=0.3) as endpoint:
        prepare(asking(endpoint.url, 5), tmp_path)
        killer = Thread(target=kill, daemon=True)
        killer.start()
        end = drive(tmp_path, workers=2, together=2, ray_address="local")
        killer.join(10)
    assert len(killed) == 1
    assert (end.done, end.wrong) == (20, {})
    assert len(list(results(tmp_path))) == 20
    bodies = {str(body) for body in endpoint.asked}
    assert len(endpoint.asked) - len(bodies) <= 2 * 5  # what the killed one had under way
