"""Where an agent's code runs: confined, limited, kept between cells, copied at will."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from stretto.agents.sandbox.base import (
    Checkpoint,
    ErrorInfo,
    ExecResult,
    Guarantee,
    NoSandboxError,
    Policy,
    Sandbox,
    SandboxCall,
    Session,
    SessionEndedError,
    Usage,
)
from stretto.errors import ConfigError, SandboxError

Backend = Literal["auto", "bubblewrap", "landlock", "monty"]
BACKENDS = ("bubblewrap", "landlock", "monty")

__all__ = [
    "BACKENDS",
    "Checkpoint",
    "ErrorInfo",
    "ExecResult",
    "Guarantee",
    "NoSandboxError",
    "Policy",
    "Sandbox",
    "SandboxCall",
    "Session",
    "SessionEndedError",
    "Usage",
    "open_sandbox",
]


@asynccontextmanager
async def open_sandbox(
    backend: Backend = "auto", policy: Policy | None = None, *, warm: int = 1
) -> AsyncIterator[Sandbox]:
    """A sandbox whose first process is already confined and waits.

    Args:
        backend: ``auto`` takes bubblewrap, else landlock, else raises; it never runs code
            without a sandbox. ``monty`` runs a subset of Python in an interpreter of its own.
        policy: limits of every session.
        warm: how many sandboxes wait ready; 0 starts each when it is asked for.

    Raises:
        NoSandboxError: nothing works here, with each back end's reason.
    """
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(f"no sandbox {backend!r}; choose from auto, {', '.join(BACKENDS)}")
    box = await _open(backend, policy or Policy(), warm)
    try:
        yield box
    finally:
        await box.close()


async def _open(backend: Backend, policy: Policy, warm: int) -> Sandbox:
    if backend == "monty":
        from stretto.agents.sandbox.monty import MontySandbox

        return MontySandbox(policy)
    if sys.platform != "linux":
        raise NoSandboxError(
            f"{backend}: only Linux has what confines Python, this is {sys.platform}; run stretto "
            "in a Linux container or virtual machine, or take monty, a subset of Python"
        )
    from stretto.agents.sandbox import bubblewrap, landlock
    from stretto.agents.sandbox.pool import ProcessSandbox

    candidates = {m.NAME: m.start for m in (bubblewrap, landlock) if backend in ("auto", m.NAME)}
    reasons: list[str] = []
    for name, start in candidates.items():
        box = ProcessSandbox(name, start, policy, max(1, warm))
        try:
            await box.warm()
        except ConfigError:
            raise
        except SandboxError as error:
            await box.close()
            reasons.append(f"{name}: {error}")
        else:
            box.size(warm)
            return box
    raise NoSandboxError(f"no sandbox works here ({'; '.join(reasons)}); see `stretto doctor`")
