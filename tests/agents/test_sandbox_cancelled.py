"""Whoever asks a sandbox for something may be cancelled at any moment: nothing is left of it."""

import asyncio
import os
import random
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stretto.agents.sandbox import Policy, Session
from stretto.agents.sandbox.channel import Channel
from stretto.agents.sandbox.doctor import _alive, _descendants
from stretto.errors import SandboxError
from tests.agents.sandboxes import BOTH, ON_LINUX, session

pytestmark = ON_LINUX
ROOMY = Policy(wall=30, cpu=30, disk="4M")


async def _left(s: Session) -> dict[str, Any]:
    """Processes, descriptors, tasks of ours and folders of copies, as they are now."""
    await asyncio.sleep(0.02)  # a task that was cancelled comes to its end
    folders = "import os; sorted(os.listdir(os.path.dirname(os.getcwd())))"
    return {
        "processes": sum(map(_alive, _descendants(os.getpid()))),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "copies": s._nurse.copies,  # type: ignore[attr-defined]
        "tasks": len(asyncio.all_tasks()),
        "folders": len((await s.exec(folders)).value),
    }


async def _settles(s: Session, before: dict[str, Any]) -> None:
    """After two seconds at most everything is as it was."""
    now: dict[str, Any] = {}
    for _ in range(40):
        now = await _left(s)
        if now == before:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"left: {now}, before: {before}")


async def _harry(rng: random.Random, action: Callable[[], Awaitable[Any]]) -> Any:
    """Cancel it after some turns of the loop or some milliseconds; what it gave, if it did."""
    task = asyncio.ensure_future(action())
    await asyncio.sleep(rng.choice([0, rng.random() * 0.002, rng.random() * 0.01]))
    for _ in range(rng.randint(0, 12)):
        await asyncio.sleep(0)
    task.cancel()
    return (await asyncio.gather(task, return_exceptions=True))[0]


@BOTH
def test_a_cancelled_fork_leaves_nothing(backend: str) -> None:
    async def run() -> None:
        rng = random.Random(backend)
        async with session(backend, ROOMY) as s:
            await s.exec("x = 1; open('f', 'wb').write(bytes(50_000))")
            await (await s.fork()).close()
            await asyncio.sleep(0.2)
            before = await _left(s)
            finished = 0
            for _ in range(100):
                copy = await _harry(rng, s.fork)
                if isinstance(copy, Session):
                    finished += 1
                    assert (await copy.exec("x")).value == 1
                    await copy.close()
                else:
                    assert isinstance(copy, asyncio.CancelledError), copy
            assert finished < 100
            await _settles(s, before)
            assert (await s.exec("x")).value == 1

    asyncio.run(run())


@BOTH
def test_a_cancelled_restore_put_or_get_spares_the_session(backend: str) -> None:
    async def run() -> None:
        rng = random.Random(1)
        async with session(backend, replace(ROOMY, disk="16M")) as s:
            await s.exec("x = 1")
            data = bytes(1_500_000)  # several frames
            await s.put("g", data)
            kept = await s.checkpoint()
            before = await _left(s)
            for _ in range(8):
                await _harry(rng, lambda: s.put("f", data))
                await _harry(rng, lambda: s.get("g"))
                assert await s.get("g") == data
                assert (await s.exec("x")).value == 1
                await _harry(rng, lambda: s.restore(kept))
                await s.restore(kept)
            assert (await s.exec("x")).value == 1
            await _settles(s, before)

    asyncio.run(run())


@BOTH
def test_a_session_closed_while_it_is_copied_leaves_nothing(backend: str) -> None:
    async def run() -> None:
        rng = random.Random(2)
        async with session(backend, ROOMY) as s:
            await (await s.fork()).close()
            await asyncio.sleep(0.2)
            before = await _left(s)
            for _ in range(30):
                parent = await s.fork()
                child = asyncio.ensure_future(parent.fork())
                await asyncio.sleep(rng.random() * 0.006)
                await parent.close()
                (found,) = await asyncio.gather(child, return_exceptions=True)
                if isinstance(found, Session):
                    await found.close()
                else:
                    assert isinstance(found, SandboxError), found
            await _settles(s, before)

    asyncio.run(run())


@BOTH
def test_what_a_copy_wrote_goes_with_it(backend: str) -> None:
    """Copies of a session with files are made for each statement: they must not fill the disk."""

    async def run() -> None:
        async with session(backend, ROOMY) as s:
            await s.put("data", bytes(1_000_000))
            await s.exec("import os; os.makedirs('a/b'); os.symlink('/', 'a/l'); os.chmod('a', 0)")
            await s.exec("os.chmod('a', 0o700)")
            before = await _left(s)
            for _ in range(10):
                async with await s.fork() as copy:
                    assert (await copy.exec("os.chmod('a', 0); open('data', 'ab').write(b'x')")).ok
                await _settles(s, before)
            assert (await s.exec("os.listdir('a'), os.path.getsize('data')")).value[1] == 1_000_000

    asyncio.run(run())


@BOTH
def test_a_copy_for_which_there_is_no_room_says_so(backend: str) -> None:
    async def run() -> None:
        async with session(backend, ROOMY) as s:
            await s.put("data", bytes(3_000_000))
            before = await _left(s)
            for _ in range(2):
                with pytest.raises(SandboxError, match=r"no copy of the session: .*No space left"):
                    await s.fork()
            await _settles(s, before)

    asyncio.run(run())


@BOTH
def test_sessions_of_one_sandbox_are_copied_at_once(backend: str) -> None:
    async def run() -> None:
        async with session(backend, ROOMY) as s:
            await s.exec("x = 0")
            others = [await s.fork() for _ in range(3)]
            for number, other in enumerate(others):
                await other.exec(f"x = {number}")
            for _ in range(10):
                copies = await asyncio.gather(*(other.fork() for other in others))
                values = await asyncio.gather(*(copy.exec("x") for copy in copies))
                assert [value.value for value in values] == [0, 1, 2]
                await asyncio.gather(*(copy.close() for copy in copies))

    asyncio.run(run())


def test_a_cancelled_sender_leaves_no_half_frame() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(5)
        channel = Channel(ours, "t", lambda frame: None, lambda error: None)
        big = asyncio.ensure_future(channel.send("reply", value="x" * 900_000))
        await asyncio.sleep(0.01)
        big.cancel()
        later = asyncio.ensure_future(channel.send("exec", code="1"))

        def read(size: int) -> bytes:
            data = b""
            while len(data) < size:
                data += theirs.recv(size - len(data))
            return data

        def frame() -> bytes:
            return read(int.from_bytes(read(4), "big"))

        assert len(await asyncio.to_thread(frame)) > 900_000
        assert await asyncio.to_thread(frame) == b'{"t": "exec", "code": "1"}'
        await later
        channel.close()
        theirs.close()

    asyncio.run(run())


def test_a_channel_closed_in_the_midst_of_a_frame_lets_its_sender_go() -> None:
    async def run() -> None:
        for _ in range(3):  # the same descriptors again: nothing of the first may be registered
            ours, theirs = socket.socketpair()
            channel = Channel(ours, "t", lambda frame: None, lambda error: None)
            senders = [asyncio.ensure_future(channel.send("a", v="x" * 900_000)) for _ in "ab"]
            await asyncio.sleep(0.01)
            channel.close()
            theirs.close()
            await asyncio.wait_for(asyncio.gather(*senders), 2)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


ORPHAN = """
import os, socket, subprocess, sys, time
from types import SimpleNamespace
from stretto.agents.sandbox.worker import Worker

ours, theirs = socket.socketpair()
gone = subprocess.Popen(["true"]); gone.wait()
worker = Worker(SimpleNamespace(handles=[theirs.detach()], socket=socket.socket()))
worker.nurse, worker.setup = gone.pid, {"work": None}
worker.on_fork("tag", "copy")
ours.settimeout(10)
print(ours.recv(100))
"""


def test_a_copy_whose_nurse_has_ended_ends_too() -> None:
    """It once waited for ever to belong to a nurse that was killed with the host meanwhile."""
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, timeout=30)
    assert (done.stdout.strip(), done.stderr) == (b"b''", b"")
