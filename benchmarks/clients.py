"""What the clients of the soak test do: each kind is a way to use a session, or to abuse one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from importlib.util import find_spec
from typing import Any

from stretto.engine import Engine, Grammar, Limits, SamplingParams, Session
from stretto.errors import LimitError, StrettoError
from stretto.streams import StreamSet

WORDS = "one two three four five six seven eight nine ten, and then? No! Wait: why not 42; é🙂 "


class Desk:
    """Where clients open their sessions.

    Args:
        engine: theirs.
        rng: decides everything.
        opened: told of each session, with the client's kind.
        deadline_s: of every session, at most.
        pool: threads for clients that are not asynchronous.
    """

    def __init__(
        self,
        engine: Engine,
        rng: random.Random,
        opened: Callable[[str, Session], None],
        deadline_s: float,
        pool: Executor,
    ) -> None:
        self.engine, self.rng, self.opened, self.pool = engine, rng, opened, pool
        self.deadline_s = deadline_s
        self._sets = [*engine.model.sets.values(), engine.streams]
        self._grammars = _GRAMMARS if find_spec("llguidance") else []

    def open(self, kind: str, deadline_s: float | None = None) -> Session:
        """A session of random streams, prompts, sampling and limits."""
        rng = self.rng
        streams = rng.choice(self._sets)
        if rng.random() < 0.3:
            some = [s for s in streams if s.direction == "input" or rng.random() < 0.7]
            outputs = [s for s in some if s.direction == "output"]
            streams = StreamSet(some) if outputs else streams
        prompts = {s.name: self.text(20) for s in streams if rng.random() < 0.4}
        session = self.engine.open(
            streams,
            prompts=prompts,
            sampling={streams[i].name: self.sampling() for i in streams.outputs},
            limits=Limits(
                max_rows=rng.randint(4, 60),
                quiet_rows=rng.randint(2, 12),
                deadline_s=deadline_s or self.deadline_s * rng.uniform(0.3, 1.0),
                max_message_tokens=rng.choice((None, 6, 30)),
            ),
            seed=rng.randrange(2**31),
        )
        self.opened(kind, session)
        return session

    def sampling(self) -> SamplingParams:
        """How some stream is sampled; hardly ever twice the same."""
        rng, special = self.rng, self.engine.codec.special
        if rng.random() < 0.3:
            return SamplingParams()
        if self._grammars and rng.random() < 0.1:
            return SamplingParams(temperature=1.0, grammar=rng.choice(self._grammars))
        return SamplingParams(
            temperature=round(rng.uniform(0.2, 1.5), 3),
            top_p=rng.choice((1.0, 0.9)),
            top_k=rng.choice((0, 0, 40)),
            repetition_penalty=rng.choice((1.0, 1.0, 1.2)),
            silence_bias=round(rng.uniform(-2, 2), 3),
            stop_ids=(rng.randrange(special.silence),),
            banned=rng.choice((None, (special.end,))),
        )

    def text(self, most: int) -> str:
        """A few words."""
        return "".join(self.rng.choice(WORDS) for _ in range(self.rng.randint(1, most)))

    def inputs(self, session: Session) -> list[str]:
        """Streams of a session that text can be sent to."""
        streams = session.streams
        return [streams[i].name for i in streams.inputs if not streams[i].prompt_only]

    async def speak(self, session: Session, times: int = 3, close: bool = True) -> None:
        """Send some text on some streams, in its own time, while the session is live."""
        rng = self.rng
        for _ in range(rng.randint(1, times)):
            for name in self.inputs(session):
                if session.finish_reason is None and rng.random() < 0.7:
                    rate = rng.choice((None, 20.0, 200.0))
                    _unless_over(
                        session,
                        partial(session.send, name, self.text(40), rate=rate,
                                end=rng.random() < 0.5),
                    )  # fmt: skip
            await asyncio.sleep(rng.uniform(0, 0.1))
        if close:
            _unless_over(session, session.close)


_GRAMMARS = [
    Grammar.regex("(yes|no|maybe)( [0-9]{1,3})?"),
    Grammar.json({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    Grammar.tools([{"name": "look", "parameters": {"type": "object"}}]),
]


def _unless_over(session: Session, act: Callable[[], Any]) -> None:
    """What a caller does may come too late; any other refusal is a defect."""
    try:
        act()
    except StrettoError:
        if session.finish_reason is None:
            raise


async def reader(desk: Desk, kind: str) -> None:
    """Speaks and reads to the end."""
    async with desk.open(kind) as session:
        speech = asyncio.create_task(desk.speak(session))
        expected = 0
        async for row in session:
            if row.index != expected:
                raise AssertionError(f"row {row.index} came where {expected} was due")
            expected += 1
        await speech
        if len(session.table) != expected:
            raise AssertionError(f"{expected} rows were read, the table has {len(session.table)}")


async def interrupter(desk: Desk, kind: str) -> None:
    """Speaks slowly and changes its mind."""
    async with desk.open(kind) as session:
        names = desk.inputs(session)
        if names:
            name = desk.rng.choice(names)
            _unless_over(session, partial(session.send, name, desk.text(60), rate=30.0))
            _unless_over(session, partial(session.close, name))
            await asyncio.sleep(desk.rng.uniform(0, 0.4))
            _unless_over(session, partial(session.interrupt, name, desk.text(10), end=True))
        _unless_over(session, session.close)
        async for _ in session:
            pass


async def canceller(desk: Desk, kind: str) -> None:
    """Stops at some row."""
    async with desk.open(kind) as session:
        await desk.speak(session, close=False)
        stop = desk.rng.randint(0, 20)
        async for row in session:
            if row.index >= stop:
                session.cancel()


async def leaver(desk: Desk, kind: str) -> None:
    """Goes after a few rows."""
    async with desk.open(kind) as session:
        await desk.speak(session, close=False)
        async for row in session:
            if row.index > 3:
                break


async def killed(desk: Desk, kind: str) -> None:
    """Is cancelled from outside, wherever it is."""
    async with desk.open(kind) as session:
        await desk.speak(session, times=8, close=False)
        async for _ in session:
            await asyncio.sleep(desk.rng.uniform(0, 0.1))


async def deaf(desk: Desk, kind: str) -> None:
    """Speaks and never reads; leaves when it is over."""
    async with desk.open(kind) as session:
        await desk.speak(session)
        while session.finish_reason is None:
            await asyncio.sleep(0.05)


async def forgetful(desk: Desk, kind: str) -> None:
    """Opens a session and is never heard of again; only the deadline ends it."""
    session = desk.open(kind, deadline_s=desk.deadline_s * 0.3)
    if desk.rng.random() < 0.5:
        await session.__aenter__()
    await desk.speak(session, close=False)


async def hasty(desk: Desk, kind: str) -> None:
    """Has hardly any time."""
    async with desk.open(kind, deadline_s=desk.rng.uniform(0.001, 0.3)) as session:
        await desk.speak(session, close=False)
        async for _ in session:
            pass
        if session.finish_reason is None:
            raise AssertionError("the rows ended before the session was over")


async def threaded(desk: Desk, kind: str) -> None:
    """Reads in a thread of its own, which steps the engine beside the background loop."""
    session = desk.open(kind)
    await desk.speak(session)
    rows = await asyncio.get_running_loop().run_in_executor(desk.pool, lambda: list(session.iter()))
    if [row.index for row in rows] != list(range(len(rows))):
        raise AssertionError("rows out of order in a thread")


async def vandal(desk: Desk, kind: str) -> None:
    """Sends and asks for what cannot be; each must be refused, and nothing else suffer."""
    engine, rng = desk.engine, desk.rng
    special = engine.codec.special
    output = engine.streams[engine.streams.outputs[0]].name
    async with desk.open(kind) as session:
        names = desk.inputs(session)
        bad: list[Callable[[], object]] = [
            lambda: session.send("nobody", "x"),
            lambda: session.send(session.streams[session.streams.outputs[0]].name, "x"),
            lambda: engine.open("no such set"),
            lambda: engine.open(sampling={"nobody": SamplingParams()}),
            lambda: engine.open(sampling=SamplingParams(allowed=(special.end + 1,))),
            lambda: engine.open(sampling=SamplingParams(allowed=(1,), banned=(1,))),
            lambda: engine.open(prompts={output: [special.silence]}),
            lambda: engine.open(prompts={output: [1] * 10**6}),
            lambda: engine.open(limits=Limits(max_rows=0)),
            lambda: SamplingParams(temperature=-1.0),
        ]
        for name in names:
            bad += [
                partial(session.send, name, [special.silence]),
                partial(session.send, name, [-1]),
                partial(session.send, name, "x", rate=0.0),
                partial(session.feed, [(0.0, name, special.end + 5)]),
            ]
        rng.shuffle(bad)
        for act in bad[: rng.randint(1, len(bad))]:
            _refused(act)
            await asyncio.sleep(0)
        await desk.speak(session)
        async for _ in session:
            pass
    for name in names:
        _refused(partial(session.send, name, "too late"))


def _refused(act: Callable[[], object]) -> None:
    try:
        act()
    except StrettoError as error:
        if "\n" in str(error):
            raise AssertionError(f"refused in several lines: {error}") from None
        return
    raise AssertionError(f"{act} was not refused")


async def forker(desk: Desk, kind: str) -> None:
    """Takes a snapshot in the middle and reads both futures, where the engine can."""
    async with desk.open(kind) as session:
        await desk.speak(session, close=False)
        fork = getattr(session, "fork", None)
        twin = None
        at = desk.rng.randint(0, 12)
        async for row in session:
            if fork is not None and twin is None and row.index >= at:
                try:
                    twin = fork()
                except LimitError:
                    continue  # no place now; it asks again at the next row
                except StrettoError:
                    if session.finish_reason is None:
                        raise
                    break
                desk.opened(kind, twin)
                _unless_over(session, session.close)
        if twin is not None:
            async with twin:
                _unless_over(twin, twin.close)
                async for _ in twin:
                    pass


Kind = Callable[[Desk, str], Awaitable[None]]
KINDS: dict[str, Kind] = {
    client.__name__: client
    for client in (
        reader, interrupter, canceller, leaver, killed, deaf, forgetful, hasty, threaded, vandal,
        forker,
    )
}  # fmt: skip
