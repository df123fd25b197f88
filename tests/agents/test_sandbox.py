"""Both sandboxes keep the contract: values, limits, tools, files, forks, and an end."""

import asyncio
import random
from typing import Any

import pytest

from stretto.agents.sandbox import (
    NoSandboxError,
    Policy,
    SessionEndedError,
    bubblewrap,
    landlock,
    open_sandbox,
)
from stretto.agents.sandbox.doctor import left_after_kill
from stretto.errors import ConfigError, InputError, SandboxError
from tests.agents.sandboxes import BOTH, ON_LINUX, SMALL, session

pytestmark = ON_LINUX


@BOTH
def test_cells_keep_their_variables_and_give_values(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            first = await s.exec(
                "import sys\nx = [1, 2]\nprint('out')\nprint('err', file=sys.stderr)"
            )
            assert (first.ok, first.stdout, first.stderr) == (True, "out\n", "err\n")
            assert not first.has_value and first.value_repr is None
            second = await s.exec("x + [None, 'é\\ud800']")
            assert second.value == [1, 2, None, "é\ud800"] and second.has_value
            third = await s.exec("{1: object}")
            assert third.value is None and not third.has_value
            assert third.value_repr == "{1: <class 'object'>}"
            assert (await s.exec("")).ok
            assert (await s.exec("x = 3; x")).value == 3 and (await s.exec("_" + "_name__")).ok

    asyncio.run(run())


@BOTH
def test_errors_say_where_and_show_only_the_users_frames(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            await s.exec("def f(a):\n    return a / 0")
            error = (await s.exec("y = 1\n\nz = f(y)")).error
            assert error is not None
            assert (error.type, error.statement, error.line) == ("ZeroDivisionError", 1, 2)
            assert error.source_line == "    return a / 0" and error.column == 12
            assert error.traceback.count("File") == 2 and "cells.py" not in error.traceback
            syntax = (await s.exec("a = (1,\nb = ]")).error
            assert syntax is not None and syntax.type == "SyntaxError" and syntax.line in (1, 2)
            missing = (await s.exec("import torch")).error
            assert missing is not None and missing.hint is not None
            assert "standard library" in missing.hint
            typo = (await s.exec("value = 1\nvaleu")).error
            assert typo is not None and typo.hint == "did you mean value?"

    asyncio.run(run())


@BOTH
def test_tools_are_functions_that_raise(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            result = await s.exec("add(1, 2, c=3)")
            assert result.value == 6 and result.calls[0].kwargs == {"c": 3}
            assert (
                await s.exec("try: add(0)\nexcept ValueError as e: t = str(e)\nt")
            ).value == "no zeros"
            late = await s.exec("print('before')\nslow()")
            assert late.error is not None and late.error.type == "TimeoutError"
            assert late.stdout == "before\n" and s.alive
            many = await s.exec("for i in range(1, 50): add(i)")
            assert many.limit == "calls" and len(many.calls) == 5
            assert (await s.exec("add(1, 1)")).value == 2

    asyncio.run(run())


@BOTH
def test_calls_from_threads_go_on_together(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            result = await s.exec(
                "from concurrent.futures import ThreadPoolExecutor as T\n"
                "with T(3) as t: r = list(t.map(nap, [1, 2, 3]))\nr"
            )
            assert result.value == [1, 2, 3]
            assert max(call.seconds for call in result.calls) < 5

    asyncio.run(run())


@BOTH
def test_limits_stop_a_cell_and_spare_the_session(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            await s.exec("kept = 7")
            for code, limit in (
                ("print('a')\nwhile True: pass", "cpu"),
                ("print('a')\nimport time; time.sleep(99)", "wall"),
                ("print('a')\nb = bytearray(10**11)", "memory"),
                ("print('a')\nwhile True: print('a')", "output"),
                ("print('a')\nopen('f', 'wb').write(bytes(1 << 22))", "disk"),
                ("print('a')\nfor i in range(9): add(1)", "calls"),
            ):
                result = await s.exec(code)
                assert (result.ok, result.limit) == (False, limit), result
                assert result.stdout.startswith("a\n") and len(result.stdout) <= 2048
            assert (await s.exec("kept")).value == 7

    asyncio.run(run())


@BOTH
def test_a_cell_that_will_not_stop_is_killed_with_its_output_kept(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            result = await s.exec(
                "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                "print('here')\nwhile True: pass"
            )
            assert (result.limit, result.alive, result.stdout) == ("cpu", False, "here\n")
            with pytest.raises(SessionEndedError, match="has ended"):
                await s.exec("1")

    asyncio.run(run())


@BOTH
def test_threads_and_processes_are_counted(backend: str) -> None:
    async def run() -> None:
        async with session(backend, Policy(threads=4)) as s:
            result = await s.exec(
                "import threading\nstop = threading.Event(); n = 0\ntry:\n"
                "    for n in range(50): threading.Thread(target=stop.wait).start()\n"
                "except RuntimeError: pass\nstop.set()\n"
                "import time\nwhile threading.active_count() > 1: time.sleep(0.01)\n"
                "n"
            )
            assert result.value == 3, result  # with the main thread, four
            with pytest.raises(SandboxError, match="threads are running"):
                await s.exec(
                    "t = threading.Thread(target=threading.Event().wait, daemon=True).start()"
                )
                await s.fork()
            assert (await s.exec("import os; os.fork()")).error is not None

    asyncio.run(run())


@BOTH
def test_forks_and_checkpoints_part_ways(backend: str) -> None:
    async def run() -> None:
        async with session(backend) as s:
            await s.exec("x = 1; open('f', 'w').write('one')")
            kept = await s.checkpoint()
            copy = await s.fork()
            await copy.exec("x = 2; open('f', 'w').write('two')")
            assert (await s.exec("[x, open('f').read(), add(1)]")).value == [1, "one", 1]
            second = await copy.fork()
            assert (await second.exec("[x, open('f').read(), add(2)]")).value == [2, "two", 2]
            await s.exec("import os; os._exit(3)")
            assert not s.alive and copy.alive
            await s.restore(kept)
            assert (await s.exec("[x, open('f').read()]")).value == [1, "one"]
            await s.restore(kept)
            assert (await s.exec("x")).value == 1
            await copy.close()

    asyncio.run(run())


def test_copies_are_limited() -> None:
    async def run() -> None:
        async with session("landlock", Policy(copies=3)) as s:
            copies = [await s.fork(), await s.fork()]
            with pytest.raises(SandboxError, match="3 copies"):
                await s.fork()
            await copies[0].close()
            assert (await (await s.fork()).exec("1")).value == 1

    asyncio.run(run())


@BOTH
def test_files_go_in_and_come_out(backend: str) -> None:
    async def run() -> None:
        async with session(backend, Policy(disk="4M")) as s:
            data = bytes(range(256)) * 8000
            await s.put("in/data.bin", data)
            await s.exec("d = open('in/data.bin', 'rb').read(); open('out', 'wb').write(d[::-1])")
            assert await s.get("out") == data[::-1]
            with pytest.raises(SandboxError, match="No such file"):
                await s.get("nothing")
            for path in ("/etc/passwd", "../x", ""):
                with pytest.raises(InputError, match="below the session"):
                    await s.put(path, b"")
            with pytest.raises(SandboxError):
                await s.put("big", bytes(8 << 20))
            assert (await s.exec("1")).value == 1

    asyncio.run(run())


@BOTH
def test_cancel_climbs_its_ladder(backend: str) -> None:
    async def run() -> None:
        async with session(backend, Policy(cpu=30, wall=30)) as s:
            soft = asyncio.create_task(s.exec("x = 1\nfor _ in range(100): nap(1)\nx = 2"))
            await asyncio.sleep(0.2)
            await s.cancel("soft")
            assert (await soft).error is not None
            assert (await s.exec("x")).value == 1
            stuck = asyncio.create_task(s.exec("while True: pass"))
            await asyncio.sleep(0.2)
            await s.cancel()
            error = (await stuck).error
            assert error is not None and error.type == "Cancelled" and s.alive
            await s.cancel()  # nothing runs: nothing happens
            assert (await s.exec("x")).value == 1
            last = asyncio.create_task(s.exec("while True: pass"))
            await asyncio.sleep(0.2)
            await s.cancel("kill")
            error = (await last).error
            assert error is not None and error.type == "Cancelled" and not s.alive

    asyncio.run(run())


def test_without_a_folder_nothing_is_written_and_the_rest_works() -> None:
    from stretto.agents.sandbox.pool import ProcessSandbox

    async def run() -> None:
        box = ProcessSandbox("landlock", lambda p: landlock.start(p, mount=False), SMALL, 0)
        try:
            async with box.session() as s:
                assert (await s.exec("open('/tmp/x', 'w')")).error is not None
                with pytest.raises(SandboxError, match="no folder"):
                    await s.put("a", b"")
                assert (await (await s.fork()).exec("1 + 1")).value == 2
        except SandboxError as error:  # as root, with an interpreter only root may read
            if "did not start" not in str(error):
                raise
            pytest.skip(str(error))
        finally:
            await box.close()

    asyncio.run(run())


def test_no_sandbox_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise SandboxError("out of order")

    monkeypatch.setattr(bubblewrap, "start", broken)
    monkeypatch.setattr(landlock, "start", broken)

    async def run() -> None:
        with pytest.raises(NoSandboxError, match=r"bubblewrap: out of order; landlock: out of"):
            async with open_sandbox():
                pass

    asyncio.run(run())


def test_auto_falls_back_to_landlock_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "program", lambda: "/nonexistent/bwrap")

    async def run() -> str:
        async with open_sandbox() as box:
            return box.name

    assert asyncio.run(run()) == "landlock"


@pytest.mark.parametrize(
    "bad", [{"wall": 0}, {"memory": "1X"}, {"memory": "1M"}, {"files": 1}, {"read": ("x",)}]
)
def test_bad_policies_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Policy(**bad)


def test_policies_only_narrow() -> None:
    policy = Policy(imports=("numpy", "json"))
    assert policy.narrow(wall=1, memory="64M", imports=("numpy",)).wall == 1
    for wider in ({"wall": 11}, {"memory": "1G"}, {"imports": ("os",)}, {"read": ("/",)}):
        with pytest.raises(ConfigError, match="narrow"):
            policy.narrow(**wider)
    with pytest.raises(ConfigError, match="no 'speed'"):
        policy.narrow(speed=1)


@BOTH
def test_a_session_may_have_a_narrower_policy_and_no_wider(backend: str) -> None:
    async def run() -> None:
        async with open_sandbox(backend, Policy(cpu=5.0), warm=1) as box:  # type: ignore[arg-type]
            narrow = Policy(cpu=0.2, disk="1M", output="10", imports=())
            async with box.session(policy=narrow) as s, await s.fork() as copy:
                for each in (s, copy):
                    assert (await each.exec("while True: pass")).limit == "cpu"
                    assert (await each.exec("print('x' * 99)")).stdout == "x" * 10
                    told = await each.exec("open('f', 'wb').write(bytes(2 << 20))")
                    assert told.limit == "disk"
            for wider in (Policy(cpu=6.0), Policy(memory="1G"), Policy(read=("/etc",))):
                with pytest.raises(ConfigError, match="may only narrow"):
                    await box.session(policy=wider)
            async with box.session() as s:  # those that wait are as before
                assert (await s.exec("print('x' * 99)")).stdout == "x" * 99 + "\n"

    asyncio.run(run())


@BOTH
@pytest.mark.parametrize("seconds", [-0.15, -0.4, 0.0, 0.1])
def test_nothing_is_left_when_the_host_is_killed(backend: str, seconds: float) -> None:
    assert left_after_kill(backend, seconds) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@BOTH
def test_nothing_is_left_at_any_of_fifty_points(backend: str) -> None:
    """While the host starts, makes its sandboxes, copies sessions and runs them."""
    rng = random.Random(backend)
    for point in range(50):
        seconds = rng.uniform(-1.2, 0.0) if point % 2 else rng.uniform(0.0, 0.4)
        assert left_after_kill(backend, seconds) == [], seconds
