"""What keeps a tool of the physical world safe: it is asked before, looked at after, stopped.

A tool with guards is run so: ``pre`` -> the tool -> ``post``. If the tool fails, takes too long or
is cancelled, or ``post`` objects, ``abort`` is called, also while the tool itself still works in a
thread that nobody can stop.

Not covered: a host that ends meanwhile. What must stop then has to stop by itself.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stretto.errors import StrettoError

ABORT_SECONDS = 5.0

Check = Callable[..., str | Awaitable[str | None] | None]


class GuardError(StrettoError):
    """A guard of a tool objected, before or after."""


@dataclass(frozen=True)
class Guards:
    """Functions around each call of a tool, sync or async.

    Attributes:
        pre: takes the tool's arguments by name; gives None, or why it may not run now.
        post: takes its result; gives None, or what is wrong with what was done.
        abort: takes nothing; stops what was begun. It has five seconds.
    """

    pre: Check | None = None
    post: Check | None = None
    abort: Callable[[], Awaitable[None] | None] | None = None

    async def run(
        self, function: Callable[[], Awaitable[Any]], arguments: Mapping[str, Any]
    ) -> Any:
        """The tool's result.

        Args:
            function: runs the tool.
            arguments: that ``pre`` sees; no credentials.

        Raises:
            GuardError: ``pre`` or ``post`` objected; after ``pre`` nothing has been run.
        """
        if self.pre is not None and (why := await _value(self.pre(**arguments))):
            raise GuardError(f"it was not begun: {why}")
        try:
            result = await function()
            if self.post is not None and (why := await _value(self.post(result))):
                raise GuardError(f"it was done, but {why}")
        except BaseException:  # cancelled too: nothing may move on
            if self.abort is not None:
                await self._stop(self.abort)
            raise
        return result

    async def _stop(self, abort: Callable[[], Awaitable[None] | None]) -> None:
        async def stop() -> None:
            await _value(abort())

        # Whoever cancels a second time does not keep it from stopping.
        stopping = asyncio.create_task(stop())
        await asyncio.wait({stopping}, timeout=ABORT_SECONDS)
        if not stopping.done():
            raise GuardError(f"it has not stopped within {ABORT_SECONDS:g} s")
        if not stopping.cancelled() and stopping.exception() is not None:
            raise GuardError(f"it could not be stopped: {stopping.exception()}")


async def _value(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found
