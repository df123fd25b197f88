"""Asynchronous sessions: one background task, sends from the event loop."""

import asyncio
import threading

import pytest

from stretto import protocols
from stretto.engine import Engine, Limits, Row, SamplingParams
from stretto.engine.session import Session
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import ConfigError
from stretto.streams import READ

LM, CODEC = tiny_lm(READ), tiny_codec()
E = CODEC.special.end
DONE, TALK = SamplingParams(allowed=(E,)), SamplingParams(allowed=(65,))


async def read(session: Session) -> list[Row]:
    return [row async for row in session]


def test_two_sessions_at_once() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC)
        long = engine.open(sampling=TALK, limits=Limits(max_rows=20))
        async with long as one, engine.open(sampling=DONE) as two:
            two.send("user", "hi")
            two.close()
            first, second = await asyncio.gather(read(one), read(two))
        assert [row.index for row in first] == list(range(20))
        assert one.finish_reason == "max_rows" and two.finish_reason == "end"
        assert [row.tokens.get("user") for row in second][:3] == [*CODEC.encode("hi"), E]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_resting_session_waits_for_what_is_sent_later() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC)
        async with engine.open(sampling=DONE) as session:
            session.send("user", "a", end=True)
            seen = []
            async for row in session:
                seen.append(row.tokens.get("user"))
                if len(seen) == 3:
                    asyncio.get_running_loop().call_later(0.05, session.send, "user", "b")
                    asyncio.get_running_loop().call_later(0.1, session.close)
            tokens = [t for t in seen if t is not None]
            assert tokens == [*CODEC.encode("a"), E, *CODEC.encode("b"), E]
            assert session.finish_reason == "end"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_leaving_cancels_and_the_deadline_wakes() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC)
        async with engine.open(sampling=TALK) as session:
            async for _ in session:
                break
        assert session.finish_reason == "cancelled"
        async with engine.open(sampling=DONE, limits=Limits(deadline_s=0.3)) as resting:
            resting.send("user", "a")
            await read(resting)
        assert resting.finish_reason == "deadline"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_error_reaches_the_reader() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC)

        def broken(_: object) -> None:
            raise RuntimeError("out of memory")

        engine._backend.forward = broken  # type: ignore[method-assign, assignment]
        async with engine.open(sampling=TALK) as session:
            with pytest.raises(RuntimeError, match="out of memory"):
                await read(session)
        assert session.finish_reason == "error"

    asyncio.run(asyncio.wait_for(main(), 60))


def test_iterating_without_entering_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="async with"):
            await read(Engine(LM, CODEC).open())

    asyncio.run(main())


def test_engine_and_session_satisfy_the_protocols() -> None:
    engine = Engine(LM, CODEC)
    assert isinstance(engine, protocols.StreamModel)
    assert isinstance(engine.open(), protocols.Session)


def test_a_second_event_loop_is_refused_while_the_first_is_served() -> None:
    engine = Engine(LM, CODEC)
    limits = Limits(max_rows=10)

    async def other() -> list[Row]:
        async with engine.open(sampling=TALK, limits=limits) as session:
            return await read(session)

    async def main() -> list[Row]:
        async with engine.open(sampling=DONE) as session:  # rests until it is spoken to
            with pytest.raises(ConfigError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, other())
            session.send("user", "hi")
            session.close()
            return await read(session)

    assert len(asyncio.run(asyncio.wait_for(main(), 60))) >= 3
    # Loop after loop is fine.
    assert len(asyncio.run(asyncio.wait_for(other(), 60))) == 10


def test_steps_are_made_by_one_thread() -> None:
    engine, seen = Engine(LM, CODEC), set()
    step = engine.step

    def noting() -> object:
        seen.add(threading.get_ident())
        return step()

    engine.step = noting  # type: ignore[method-assign]

    async def one() -> None:
        async with engine.open(sampling=TALK, limits=Limits(max_rows=5)) as session:
            await read(session)

    async def main() -> None:
        for _ in range(3):
            await asyncio.gather(*(one() for _ in range(3)))

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(seen) == 1


def test_a_loop_that_closes_meanwhile_disturbs_no_caller() -> None:
    class Closing:
        """Open when it is asked, closed when it is called: another thread closes it."""

        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, *_: object) -> None:
            raise RuntimeError("Event loop is closed")

    engine = Engine(LM, CODEC)
    session = engine.open(sampling=TALK, limits=Limits(max_rows=3))
    engine._live._news[session] = asyncio.Event()
    engine._live._loop = Closing()  # type: ignore[assignment]
    session.send("user", "a", end=True)
    engine.run([session])
    assert session.finish_reason == "max_rows"
