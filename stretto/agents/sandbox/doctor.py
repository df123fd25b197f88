"""Which guarantees hold on this machine: each is shown as held only after a test passed here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stretto.agents.sandbox import open_sandbox
from stretto.agents.sandbox.base import Guarantee, Sandbox
from stretto.agents.sandbox.testing import POLICY, run_hostile
from stretto.errors import SandboxError

# What shows each guarantee: names in hostile.py, all of which must be contained.
_BY_PROGRAMS = {
    "no file of the host can be read": (
        "reads a file of the host",
        "reads it with libc",
        "reads the list of users",
        "reads through /proc/self/root",
        "reads through a symbolic link",
    ),
    "no file of the host can be changed": (
        "changes the host's file",
        "renames over the host's file",
        "makes a file beside it",
    ),
    "no network, no sockets of the host": (
        "connects by TCP",
        "sends a datagram",
        "listens",
        "connects to a Unix socket",
        "sends from a pair's datagram end",
    ),
    "the host's environment is hidden": (
        "reads the host's environment",
        "reads its parent's environment",
    ),
    "no new processes, few threads": (
        "forks",
        "runs a program",
        "fork bomb",
        "thread bomb",
        "uses clone3",
        "forks through the worker",
    ),
    "no signals to others": ("probes its parent with a signal", "signals every process"),
    "no rights to gain": (
        "becomes root",
        "mounts",
        "unshares a user namespace",
        "loads a BPF program",
        "starts io_uring",
        "asks for ptrace",
    ),
    "forged frames end the session": (
        "forges frames on every descriptor",
        "takes the worker's channel and forges a type",
    ),
}
_NOT_COVERED = Guarantee(
    "defects of the kernel, timing, noise on cores and disks", None, "no sandbox here covers them"
)


async def doctor(backend: str) -> list[Guarantee]:
    """Test one back end here; takes some seconds.

    Args:
        backend: ``bubblewrap`` or ``landlock``.

    Returns:
        What was tested, with the outcome. A back end that does not work has one line that says why.
    """
    try:
        policy = replace(POLICY, wall=5.0)  # so that cpu comes first, on a busy machine too
        async with open_sandbox(backend, policy) as box:  # type: ignore[arg-type]
            notes = await _describe(box)
            found = [Guarantee("works here", True, notes)]
            for name, programs in _BY_PROGRAMS.items():
                escaped = await run_hostile(box, programs)
                detail = "; ".join(f"{k}: {v}" for k, v in escaped.items())
                found.append(Guarantee(name, not escaped, detail or f"{len(programs)} attempts"))
            for name, test in _TESTS.items():
                found.append(await _run(name, test, box))
    except SandboxError as error:
        return [Guarantee("works here", False, str(error))]
    return [*found, await asyncio.to_thread(_ends_with_host, backend), _NOT_COVERED]


def advice(found: Mapping[str, Sequence[Guarantee]]) -> list[str]:
    """What this machine gets, in plain words.

    Args:
        found: of each back end, what :func:`doctor` told.

    Returns:
        Lines for a person to read.
    """
    works = [name for name, rows in found.items() if rows[0].held]
    broken = [f"{name}: {row.name}" for name in works for row in found[name] if row.held is False]
    if broken:
        return [f"Do not run strangers' code here: not held are {'; '.join(broken)}."]
    if sys.platform != "linux":
        return [
            f"Python cannot be confined on {sys.platform}: bubblewrap and landlock are Linux's. "
            "Nothing is run without them.",
            _MONTY_ONLY,
            "For all of Python run stretto in a Linux container or virtual machine.",
        ]
    if not works:
        return ["No sandbox works here, so no code is run.", _MONTY_ONLY, _NAMESPACES]
    lines = [f"Code runs in {works[0]}."]
    if "bubblewrap" in found and "bubblewrap" not in works:
        lines += [
            "bubblewrap does not work here. Landlock holds what the table says, but code in it "
            "sees the numbers of the host's processes and the host's name.",
            _NAMESPACES,
        ]
    if any("no folder to write in" in row.detail for row in found[works[0]]):
        lines.append("This kernel gives it no folder of its own: code cannot write files.")
    return lines


_MONTY_ONLY = (
    "What is left is `--backend monty`: a subset of Python for code that calls tools, without "
    "packages and files."
)
_NAMESPACES = (
    "bubblewrap needs the program bwrap and, unless stretto runs as root with CAP_SYS_ADMIN, a "
    "kernel that lets users have namespaces. Containers and Ubuntu often forbid that; allow it "
    "with sysctl kernel.apparmor_restrict_unprivileged_userns=0 or user.max_user_namespaces, "
    "or with the container's own security options."
)


async def _describe(box: Sandbox) -> str:
    async with box.session() as session:
        result = await session.exec("import os; [os.getuid(), os.getcwd()]")
    uid, folder = result.value
    return f"uid {uid}, " + ("no folder to write in" if folder == "/" else f"folder {folder}")


async def _run(name: str, test: Callable[[Sandbox], Awaitable[str]], box: Sandbox) -> Guarantee:
    detail = await test(box)
    held = None if detail.startswith("no folder") else not detail.startswith("NOT")
    return Guarantee(name, held, detail)


async def _limit(box: Sandbox, code: str, limit: str) -> str:
    async with box.session() as session:
        result = await session.exec(code)
    if result.limit != limit:
        error = result.error.message if result.error else "no error"
        return f"NOT stopped as {limit}: {error}"
    return f"stopped after {result.usage.wall:.2f} s"


async def _disk(box: Sandbox) -> str:
    code = "for i in range(1000):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))"
    async with box.session() as session:
        result = await session.exec(code)
    error = result.error.type if result.error else "none"
    if result.limit != "disk" and error not in ("PermissionError", "OSError"):
        return f"NOT stopped: {error}"
    return "a quota" if result.limit == "disk" else "nothing can be written at all"


async def _files(box: Sandbox) -> str:
    try:
        async with box.session() as session:
            if (await session.exec("import os; os.getcwd()")).value == "/":
                return "no folder to put them into"
            await session.put("a/b.txt", b"x" * 1000)
            back = await session.get("a/b.txt")
    except SandboxError as error:
        return f"NOT here: {error}"
    return "in and out" if back == b"x" * 1000 else "NOT the same bytes"


async def _forks(box: Sandbox) -> str:
    async with box.session() as session:
        await session.exec("x = 1")
        kept = await session.checkpoint()
        await session.exec("x = 2")
        await session.restore(kept)
        result = await session.exec("x")
    return "a checkpoint gave the state back" if result.value == 1 else "NOT the old state"


_TESTS: dict[str, Callable[[Sandbox], Awaitable[str]]] = {
    "limit: wall": lambda box: _limit(box, "import time; time.sleep(99)", "wall"),
    "limit: cpu": lambda box: _limit(box, "while True: pass", "cpu"),
    "limit: memory": lambda box: _limit(box, "x = bytearray(10**11)", "memory"),
    "limit: output": lambda box: _limit(box, "while True: print('x' * 999)", "output"),
    "limit: disk": _disk,
    "files in and out": _files,
    "forks and checkpoints": _forks,
}

_HOST = """
import asyncio, sys
from stretto.agents.sandbox import open_sandbox
async def main():
    async with open_sandbox({backend!r}, warm=1) as box:
        session = await box.session()
        copy = await session.fork()
        for s in (session, copy):
            asyncio.create_task(s.exec("while True: pass"))
        await asyncio.sleep(0.05)
        print("running", flush=True)
        while True:
            await (await box.session()).close()
asyncio.run(main())
"""


def _ends_with_host(backend: str) -> Guarantee:
    name = "nothing is left when the host is killed"
    left = left_after_kill(backend, 0.0)
    return Guarantee(name, not left, f"left: {left}" if left else "all gone within 2 s")


def left_after_kill(backend: str, seconds: float) -> list[str]:
    """Kill -9 a host with running sessions, and look 2 s later.

    Args:
        backend: its sandbox.
        seconds: how long after the sessions run; negative: that long after the host's start.

    Returns:
        Processes, mounts and temporary files that are left.
    """
    with tempfile.TemporaryDirectory(prefix="stretto-left-") as folder:
        return _left_after_kill(backend, seconds, folder)


def _left_after_kill(backend: str, seconds: float, folder: str) -> list[str]:
    root = str(Path(__file__).resolve().parents[3])
    mark = f"STRETTO_HOST_{os.getpid()}_{time.monotonic_ns()}"
    host = subprocess.Popen(
        [sys.executable, "-c", _HOST.format(backend=backend) + f"# {mark}"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root, "TMPDIR": folder},
        start_new_session=True,
    )
    assert host.stdout is not None
    if seconds >= 0:
        host.stdout.readline()
    time.sleep(abs(seconds))
    family = _descendants(host.pid)
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    os.kill(host.pid, signal.SIGKILL)
    host.wait()
    host.stdout.close()
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(map(_alive, family)):
        time.sleep(0.02)
    left = [f"process {pid}" for pid in family if _alive(pid)]
    left += [f"file {path}" for path in Path(folder).rglob("*")]
    now = Path("/proc/mounts").read_text(encoding="utf-8")
    return left + sorted(set(now.splitlines()) - set(mounts.splitlines()))


def _alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z", "X")


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def _descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(parents.get(pid, []))
    while waiting:
        child = waiting.pop()
        found.append(child)
        waiting += parents.get(child, [])
    return found
