"""The soak test in short, and that it can fail: a leak, a session that hangs, a table that lies."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from stretto.engine import Engine, WallClock
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.engine.session import Session
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import StrettoError

pytest.importorskip("psutil")
clients = pytest.importorskip("benchmarks.clients")  # not in an installed package
from benchmarks import memory  # noqa: E402
from benchmarks.load import step_until  # noqa: E402
from benchmarks.soak import Soak  # noqa: E402

LM, CODEC = tiny_lm(), tiny_codec()
SECONDS = 2**22
"""Bytes that libraries still take in the first seconds: kernels, grammars, threads."""


class Leaking(TransformersBackend):
    """Keeps four megabytes of every pass."""

    def __init__(self) -> None:
        super().__init__(LM)
        self._kept: list[Tensor] = []

    def forward(self, batch: RowBatch) -> Tensor:
        self._kept.append(torch.ones(2**20))
        return super().forward(batch)


class Dribbling(TransformersBackend):
    """Keeps 128 kilobytes for every line that it ever gave."""

    def __init__(self) -> None:
        super().__init__(LM)
        self._kept: list[bytes] = []

    def open(self) -> int:
        self._kept.append(bytes(2**17))
        return super().open()


class Lying(TransformersBackend):
    """Tells sessions in company something else than those that are alone."""

    def forward(self, batch: RowBatch) -> Tensor:
        logits = super().forward(batch)
        return logits.roll(1, -1) if len(batch.lines) > 1 else logits


class Standing(WallClock):
    """Stands still, so that no deadline ever comes."""

    def now(self) -> float:
        return 0.0


def soak(backend: TransformersBackend, seconds: float, **options: object) -> Soak:
    engines = [Engine(LM, CODEC, backend=backend, max_sessions=8) for _ in range(2)]
    return Soak(engines[0], seconds, replay=engines[1], deadline_s=2.0, **options)  # type: ignore[arg-type]


def test_nothing_leaks_hangs_or_differs() -> None:
    report = soak(TransformersBackend(LM), 12, replay_s=4, flat=0.05, noise=SECONDS).run()
    assert report.problems == []
    assert set(report.sessions) == set(clients.KINDS)
    assert report.equal == report.replayed > 0 and report.growth is not None


def test_a_leak_is_found() -> None:
    report = soak(Leaking(), 5, replay_s=0).run()
    assert any("memory grew by" in problem for problem in report.problems), report.problems


def test_a_small_leak_is_found_too() -> None:
    report = soak(Dribbling(), 10, replay_s=0, flat=0.5).run()
    assert any("bytes behind" in problem for problem in report.problems), report
    assert report.left is not None and 2**16 < report.left < 2**19, report.rests


def test_a_kilobyte_a_session_is_a_leak_and_noise_is_none() -> None:
    leaking = [(200 * i, 10**8 + 1024 * 200 * i) for i in range(12)]
    left = memory.slope(leaking)
    assert left == 1024 and memory.is_leak(leaking, left)
    noisy = [(200 * i, 10**8 + 10**5 * (i % 2)) for i in range(12)]
    left = memory.slope(noisy)
    assert left is not None and not memory.is_leak(noisy, left)
    assert memory.slope(leaking[:3]) is None


def test_a_session_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(desk: clients.Desk, kind: str) -> None:
        # Nobody speaks, nobody closes, and its own clock stands still.
        session = desk.engine.open(
            "audit", clock=Standing(), limits=clients.Limits(max_rows=10**6, deadline_s=0.5)
        )
        desk.opened(kind, session)
        async with session:
            await asyncio.sleep(1000)

    monkeypatch.setattr("benchmarks.soak.KINDS", {"hanging": hang})
    report = soak(TransformersBackend(LM), 1, margin_s=0.5, replay_s=0).run()
    assert any("stuck: hanging: row" in problem for problem in report.problems)


def test_a_table_that_cannot_be_replayed_is_found() -> None:
    report = soak(Lying(LM), 3, replay_s=3).run()
    assert any("replays differ: replay differs from row" in p for p in report.problems)


def test_a_client_that_meets_the_unexpected_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def swallow(self: Session, stream: str, text: object, **_: object) -> None:
        """Takes whatever it is sent, and says nothing."""

    monkeypatch.setattr(Session, "send", swallow)
    vandals = {"vandal": clients.KINDS["vandal"]}
    monkeypatch.setattr("benchmarks.soak.KINDS", vandals)
    report = soak(TransformersBackend(LM), 1, replay_s=0).run()
    assert any("was not refused" in problem for problem in report.problems)


def test_a_soak_may_run_beside_the_main_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(soak(TransformersBackend(LM), 0.2, replay_s=0).run).result()
    assert report.sessions


def test_a_bench_does_not_wait_for_a_session_that_is_over() -> None:
    engine = Engine(LM, CODEC)
    session = engine.open("audit", limits=clients.Limits(max_rows=3))
    step_until(engine, [session], 3)
    with pytest.raises(StrettoError, match=r"over \(max_rows\) after 3 of 4 rows"):
        step_until(engine, [session], 4)
