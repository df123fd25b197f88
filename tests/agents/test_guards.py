"""A physical tool is asked before, looked at after, and stopped when anything goes wrong."""

import asyncio
import time
from typing import Annotated, Any

import pytest

from stretto.agents import guards
from stretto.agents.broker import Broker, Call, CallRecord
from stretto.agents.guards import GuardError, Guards
from stretto.agents.registry import Registry
from stretto.agents.tool import Credential, Tool


class Arm:
    """A simulated arm on a rail from 0 to 9, with a twin to try moves on."""

    def __init__(self, at: int = 0, stuck: bool = False) -> None:
        self.at, self.stuck, self.moving, self.log = at, stuck, False, list[str]()

    def tool(self, **more: Any) -> Tool:
        around = Guards(pre=self.may_move, post=self.has_moved, abort=self.stop)
        return Tool(self.move, effect="write", kind="physical", guards=around, **more)

    def may_move(self, to: int, seconds: float = 0.0) -> str | None:
        return None if 0 <= to <= 9 else f"the rail ends at 9, not {to}"

    async def move(self, to: int, seconds: float = 0.0) -> int:
        self.moving = True
        await asyncio.sleep(seconds)
        if to == 7:
            raise OSError("a motor failed")
        self.at = self.at if self.stuck else to
        self.moving = False
        return to

    async def has_moved(self, to: int) -> str | None:
        return None if self.at == to else f"the arm is at {self.at}, not {to}"

    def stop(self) -> None:
        self.moving = False
        self.log.append("stopped")


def call(made: Tool, **arguments: Any) -> CallRecord:
    return asyncio.run(Broker(Registry([made])).call(Call("move", arguments)))


def test_what_may_not_begin_does_not() -> None:
    arm = Arm()
    record = call(arm.tool(), to=12)
    assert record.error == "tool move: GuardError: it was not begun: the rail ends at 9, not 12"
    assert (arm.at, arm.log) == (0, [])
    assert call(arm.tool(), to=3).value == 3 and (arm.at, arm.log) == (3, [])


@pytest.mark.parametrize(
    ("stuck", "arguments", "error"),
    [
        (True, {"to": 3}, "it was done, but the arm is at 0, not 3"),
        (False, {"to": 7}, "OSError: a motor failed"),
        (False, {"to": 3, "seconds": 60.0}, "took more than 0.1 s"),
    ],
)
def test_whatever_goes_wrong_it_is_stopped(
    stuck: bool, arguments: dict[str, Any], error: str
) -> None:
    arm = Arm(stuck=stuck)
    record = call(arm.tool(timeout=0.1), **arguments)
    assert error in record.error and not record.ok
    assert (arm.at, arm.moving, arm.log) == (0, False, ["stopped"])


def test_a_cancelled_move_is_stopped() -> None:
    arm = Arm()

    async def run() -> None:
        moving = asyncio.ensure_future(arm.tool().acall(to=3, seconds=60.0))
        await asyncio.sleep(0.01)
        assert arm.moving
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        assert moving.cancelled()

    asyncio.run(run())
    assert (arm.moving, arm.log) == (False, ["stopped"])


def test_a_move_in_a_thread_is_told_to_stop_while_it_still_works() -> None:
    log: list[str] = []

    def move() -> None:
        time.sleep(0.3)
        log.append("moved")

    made = Tool(move, timeout=0.05, guards=Guards(abort=lambda: log.append("stop")))
    record = call(made)
    assert record.kind == "time" and log[0] == "stop"


def test_one_that_cannot_be_stopped_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("no contact")

    def move() -> None:
        raise ValueError("jammed")

    made = Tool(move, guards=Guards(abort=broken))
    with pytest.raises(GuardError, match="it could not be stopped: no contact"):
        made.call()
    monkeypatch.setattr(guards, "ABORT_SECONDS", 0.05)
    made = Tool(move, guards=Guards(abort=lambda: asyncio.sleep(60)))
    with pytest.raises(GuardError, match=r"it has not stopped within 0\.05 s"):
        made.call()


def test_guards_see_no_credentials() -> None:
    seen: list[dict[str, Any]] = []

    def move(to: int, *, key: Annotated[str, Credential("arm")]) -> str:
        return key[::-1]

    made = Tool(move, guards=Guards(pre=lambda **given: seen.append(given)))
    broker = Broker(Registry([made]), credentials={"arm": "s3cret"})
    assert asyncio.run(broker.call(Call("move", {"to": 1}))).value == "terc3s"
    assert seen == [{"to": 1}]


def test_the_same_move_runs_on_the_twin_first() -> None:
    """A twin is a tool of the same name over a simulation: the registry is all that changes."""
    real, twin = Arm(), Arm(stuck=True)
    assert not call(twin.tool(), to=3).ok and real.log == []
    assert real.tool().schema == twin.tool().schema and real.at == 0
