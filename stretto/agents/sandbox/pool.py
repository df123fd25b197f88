"""A box of warm sandboxes: each session gets one of its own, started before it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from stretto.agents.sandbox.base import OnCall, Policy, Sandbox, Session
from stretto.agents.sandbox.nurse import Launch, Nurse
from stretto.agents.sandbox.session import ProcessSession
from stretto.errors import SandboxError


class ProcessSandbox(Sandbox):
    """Sessions in processes, by bubblewrap or by Landlock.

    Args:
        name: of the back end.
        start: starts a first process; see ``bubblewrap.start``.
        policy: of every session.
        warm: how many sandboxes wait ready.
    """

    def __init__(
        self, name: str, start: Callable[[Policy], Launch], policy: Policy, warm: int
    ) -> None:
        self.name, self.policy = name, policy
        self._start, self._size = start, warm
        self._warm: list[Nurse] = []
        self._used: list[Nurse] = []
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def open_session(
        self,
        *,
        tools: Sequence[str] = (),
        on_call: OnCall | None = None,
        policy: Policy | None = None,
    ) -> Session:
        if self._closed:
            raise SandboxError("this sandbox is closed")
        own = self.narrowed(policy)
        is_common = own == self.policy  # those that wait have been confined by it
        nurse = self._warm.pop() if self._warm and is_common else await self._nurse(own)
        self._used = [used for used in self._used if used.alive] + [nurse]
        session = ProcessSession(nurse, tools, on_call, owns=True)
        try:
            await session.begin(nurse.channel)
            await session.setup()
        except BaseException:  # whoever asked has gone: so must the processes
            await nurse.close()
            raise
        self._fill()
        return session

    async def warm(self) -> None:
        """Wait until the pool is full."""
        self._fill()
        if self._filling is not None:
            await self._filling

    def size(self, warm: int) -> None:
        """How many sandboxes shall wait from now on."""
        self._size = warm

    async def close(self) -> None:
        self._closed = True
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        nurses, self._warm, self._used = self._warm + self._used, [], []
        await asyncio.gather(*(nurse.close() for nurse in nurses))

    async def _nurse(self, policy: Policy) -> Nurse:
        nurse = Nurse(self._start(policy), policy, self.name)
        try:
            await nurse.start()
        except BaseException:
            await nurse.close()
            raise
        return nurse

    def _fill(self) -> None:
        lacking = not self._closed and len(self._warm) < self._size
        if lacking and (self._filling is None or self._filling.done()):
            self._filling = asyncio.create_task(self._add())

    async def _add(self) -> None:
        while len(self._warm) < self._size:
            self._warm.append(await self._nurse(self.policy))
