"""The conformance kit: what every sandbox must contain, and what it must let through.

``run_hostile`` gives back the programs that got out, ``run_benign`` the ordinary ones that failed;
both must be empty. ``without_sandbox`` shows that the hostile ones are hostile.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stretto.agents.sandbox.base import ExecResult, Policy, Sandbox
from stretto.agents.sandbox.benign import BENIGN, BENIGN_NUMPY
from stretto.agents.sandbox.hostile import CONTAINED, FRESH, HARMLESS

POLICY = Policy(wall=1.5, cpu=0.4, memory="512M", disk="4M", calls=20)
"""Small limits, so that the hostile programs reach them soon."""

SECRET = "the canary sings at noon"
_X86_ONLY = "call("  # these use the numbers of x86-64


@dataclass
class Bait:
    """What a hostile program reaches for: a file, sockets, an environment variable."""

    folder: Path
    listener: socket.socket
    unix: socket.socket
    datagrams: socket.socket

    def prelude(self) -> str:
        """Python that names the bait."""
        names = {
            "CANARY": str(self.folder / "canary"),
            "SECRET": SECRET,
            "PORT": self.listener.getsockname()[1],
            "UNIX": str(self.folder / "stream"),
            "DGRAM": str(self.folder / "datagram"),
            "HOST": os.getpid(),
            "PACKAGE": str(Path(__file__).parent / "base.py"),
            "HOME": str(self.folder),
        }
        return "\n".join(f"{name} = {value!r}" for name, value in names.items())

    def touched(self) -> list[str]:
        """What has been changed or reached."""
        found = []
        if (self.folder / "canary").read_text() != SECRET or len(list(self.folder.iterdir())) != 3:
            found.append("a file of the host")
        for name, end in (("TCP", self.listener), ("Unix", self.unix), ("dgram", self.datagrams)):
            try:
                end.recv(1) if name == "dgram" else end.accept()
            except BlockingIOError:
                continue
            found.append(f"a {name} socket of the host")
        return found


@asynccontextmanager
async def bait() -> AsyncIterator[Bait]:
    """Lay the bait out, and take it in again."""
    with tempfile.TemporaryDirectory(prefix="stretto-bait-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # whoever can walk up to it may read it: no help from file modes
        (folder / "canary").write_text(SECRET)
        ends = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
        ends.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ends[1].bind(str(folder / "stream"))
        ends[1].listen()
        ends[2].bind(str(folder / "datagram"))
        for path in folder.iterdir():
            path.chmod(0o666)
        for end in ends:
            end.setblocking(False)
        os.environ["PROBE_KEY"] = SECRET
        try:
            yield Bait(folder, *ends)
        finally:
            del os.environ["PROBE_KEY"]
            for end in ends:
                end.close()


async def _probe(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return [name, args, kwargs]


def hostile_names() -> list[str]:
    """Every hostile program that this machine's architecture can run."""
    every = {**HARMLESS, **CONTAINED, **FRESH}
    x86 = platform.machine() == "x86_64"
    return [name for name, code in every.items() if x86 or _X86_ONLY not in code]


async def run_hostile(box: Sandbox, names: Iterable[str] | None = None) -> dict[str, str]:
    """Run hostile programs, most in copies of one session; those that got out, and how."""
    programs = {**HARMLESS, **CONTAINED, **FRESH}
    escaped: dict[str, str] = {}
    async with bait() as laid, box.session(tools=["probe"], on_call=_probe) as base:
        await base.exec(laid.prelude())
        for name in hostile_names() if names is None else names:
            if name in FRESH:
                async with box.session(tools=["probe"], on_call=_probe) as session:
                    await session.exec(laid.prelude())
                    result = await session.exec(programs[name])
            else:
                async with await base.fork() as session:
                    result = await session.exec(programs[name])
            how = _got_out(result) or ", ".join(laid.touched())
            if how:
                escaped[name] = how
        check = await base.exec("1 + 1")
        if check.value != 2:
            escaped["(afterwards)"] = "the session they were copied from is damaged"
    return escaped


def _got_out(result: ExecResult) -> str:
    if result.value is True:
        return "its last value is True"
    if result.usage.wall > 2 * POLICY.wall + 20:  # others use this machine too
        return f"it ran for {result.usage.wall:.0f} s"
    if len(result.stdout) + len(result.stderr) > 70_000:
        return "it printed more than it may"
    return ""


async def run_benign(box: Sandbox, names: Iterable[str] | None = None) -> dict[str, str]:
    """Run ordinary programs in copies of one session; those that failed, and why."""
    programs = {**BENIGN, **(BENIGN_NUMPY if "numpy" in box.policy.imports else {})}
    failed: dict[str, str] = {}
    async with box.session() as base:
        for name in programs if names is None else names:
            async with await base.fork() as session:
                result = await session.exec(programs[name])
            if result.value is not True:
                error = result.error
                failed[name] = f"{error.type}: {error.message}" if error else repr(result.value)
    return failed


async def without_sandbox(names: Iterable[str] | None = None) -> dict[str, bool]:
    """Run the harmless hostile programs by plain ``exec`` in a process: whether they get out."""
    got_out: dict[str, bool] = {}
    for name in HARMLESS if names is None else names:
        async with bait() as laid:
            code = f"{laid.prelude()}\n" + _LAST_VALUE.format(code=HARMLESS[name])
            with tempfile.TemporaryDirectory(prefix="stretto-bait-") as here:
                environment = {**os.environ, "TMP_HERE": here}
                done = await asyncio.to_thread(
                    subprocess.run,
                    [sys.executable, "-c", code],
                    env=environment,
                    capture_output=True,
                    cwd=here,
                    timeout=60,
                )
            got_out[name] = done.returncode == 42
    return got_out


_LAST_VALUE = """
import ast as _ast, os as _os
_tree = _ast.parse({code!r})
_last = _ast.Expression(_tree.body.pop().value)
exec(compile(_tree, "x", "exec"), globals())
_os._exit(42 if eval(compile(_last, "x", "eval"), globals()) is True else 1)
"""
