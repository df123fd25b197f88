"""What goes wrong in one session ends that session, and no other."""

import asyncio

import numpy as np
import pytest
import torch
from steered import CODEC, LM, TALK, clock, rows
from torch import Tensor

from stretto.engine import Engine, Limits, SamplingParams
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.engine.sampling import KEPT, Sampler
from stretto.engine.session import Session

LIMITS = Limits(max_rows=8)
DRAW = SamplingParams(temperature=1.0, repetition_penalty=1.5)


def broken(*_: object, **__: object) -> object:
    raise ZeroDivisionError("planted")


class BrokenMatcher:
    """As a grammar library might fail."""

    mask = broken

    def advance(self, token: int) -> None:
        """Nothing."""

    def copy(self) -> "BrokenMatcher":
        return self


def plant(session: Session, where: str) -> None:
    writer = session._writer
    if where == "decoder":
        writer._decoders[1].push = broken  # type: ignore[method-assign, assignment]
    elif where == "receive":
        writer.receive = broken  # type: ignore[method-assign, assignment]
    elif where == "grammar":
        writer.matchers[1] = BrokenMatcher()  # type: ignore[assignment]
    elif where == "history":
        writer.history[1].add = broken  # type: ignore[method-assign, assignment]
    elif where == "sampling":
        writer.history[1]._tokens[:] = 10**9
        writer.history[1]._number = 1
    else:
        session._inputs.arrived = broken  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    "where", ["decoder", "receive", "grammar", "history", "sampling", "inputs"]
)
def test_a_fault_in_one_session_ends_only_that_one(where: str) -> None:
    engine = Engine(LM, CODEC)
    opened = [engine.open(sampling=DRAW, limits=LIMITS, seed=i, clock=clock()) for i in range(3)]
    for _i in range(2):
        engine.step()
    plant(opened[1], where)
    with pytest.raises((ZeroDivisionError, IndexError, RuntimeError)):
        engine.run(opened)
    assert [s.finish_reason for s in opened] == ["max_rows", "error", "max_rows"]
    assert isinstance(opened[1].error, Exception) and opened[1].table.rows.shape[1] == 2
    twins = [Engine(LM, CODEC).open(sampling=DRAW, limits=LIMITS, seed=i, clock=clock())
             for i in (0, 2)]  # fmt: skip
    for twin, session in zip(twins, (opened[0], opened[2]), strict=True):
        list(twin.iter())
        assert rows(twin) == rows(session)
    assert engine.stats().active == 0
    with pytest.raises((ZeroDivisionError, IndexError, RuntimeError)):
        list(opened[1].iter())


def test_when_only_the_failing_one_was_due_the_others_go_on() -> None:
    engine = Engine(LM, CODEC)
    talking = engine.open(sampling=TALK, limits=Limits(max_rows=30), clock=clock())
    long = engine.open(prompts={"user": [1] * 40}, sampling=TALK, clock=clock())
    long.begin = broken  # type: ignore[method-assign, assignment]
    engine.run([talking])
    assert (talking.finish_reason, long.finish_reason) == ("max_rows", "error")


def test_a_tiny_temperature_is_the_likeliest_token() -> None:
    engine = Engine(LM, CODEC)
    made = [engine.open(sampling=SamplingParams(temperature=t), limits=LIMITS, clock=clock())
            for t in (0.0, 1e-320, 1e-5)]  # fmt: skip
    engine.run(made)
    assert rows(made[0]) == rows(made[1]) == rows(made[2])


class Fails(TransformersBackend):
    """Fails for sessions whose first token is 7."""

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        if (batch.tokens == 7).any():
            raise RuntimeError("out of memory")
        return super().forward(batch)


def test_a_failing_pass_ends_its_sessions_and_the_loop_goes_on() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC, backend=Fails(LM))
        async with engine.open(sampling=TALK, limits=Limits(max_rows=40)) as talking:
            async for row in talking:
                if row.index == 3:
                    break
            async with engine.open(prompts={"user": [7] * 50}, sampling=TALK) as bad:
                with pytest.raises(RuntimeError, match="out of memory"):
                    [row async for row in bad]
            assert len([row async for row in talking]) == 40
        assert (talking.finish_reason, bad.finish_reason) == ("max_rows", "error")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_failing_pass_of_others_ends_nobody_in_the_loop() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC, backend=Fails(LM))
        async with engine.open(sampling=TALK, limits=Limits(max_rows=40)) as talking:
            # Nobody reads it, so the loop does not serve it; a long prompt has passes of its own.
            bad = engine.open(prompts={"user": [7] * 50}, sampling=TALK)
            assert len([row async for row in talking]) == 40
        assert (talking.finish_reason, bad.finish_reason) == ("max_rows", "error")
        assert isinstance(bad.error, RuntimeError)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_fails_before_a_pass_ends_the_loop() -> None:
    async def main() -> None:
        engine = Engine(LM, CODEC)
        engine._scheduler.plan = broken  # type: ignore[method-assign, assignment]
        async with engine.open(sampling=TALK) as session:
            with pytest.raises(ZeroDivisionError, match="planted"):
                [row async for row in session]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_is_sent_while_a_session_is_found_quiet_is_read() -> None:
    engine = Engine(LM, CODEC)
    session = engine.open(sampling=SamplingParams(allowed=(CODEC.special.end,)), clock=clock())
    step, asked, late = engine.step, session.next_arrival, [5, 6]

    def found_nothing() -> list:
        made = step()
        if not made and late:
            session.next_arrival = nothing_yet  # type: ignore[method-assign]
        return made

    def nothing_yet() -> float | None:
        due = asked()
        session.next_arrival = asked  # type: ignore[method-assign]
        session.send("user", [late.pop()])
        return due

    engine.step = found_nothing  # type: ignore[method-assign, assignment]
    engine.run([session])
    assert session.finish_reason == "quiet" and not late
    assert [row.tokens["user"] for row in session.rows if "user" in row.tokens] == [6, 5]


def test_parameters_of_nobody_make_room_for_others() -> None:
    special = CODEC.special
    sampler = Sampler(special.end + 1, special, torch.device("cpu"))
    several = [SamplingParams(banned=(i,)) for i in range(3 * KEPT)]
    first = sampler.register(several[0])
    for params in several:
        sampler.register(params, {first})
    assert len(sampler._params) == len(sampler._biases) == len(sampler._ids) == KEPT
    assert sampler.register(several[0]) == first
    # Each number stands for the parameters it was last given for.
    for params in several[-10:]:
        number = sampler.register(params, {first})
        logits = torch.zeros(1, special.end + 1)
        logits[0, params.banned[0]] = 5.0  # type: ignore[index]
        none = np.empty(0, np.int64)
        batch = RowBatch(none, none, none, none, none, none, np.array([number]), np.zeros(1), [])
        assert sampler.sample(logits, batch)[0] != params.banned[0]  # type: ignore[index]
    everybody = set(range(KEPT))
    assert sampler.register(SamplingParams(top_k=9), everybody) == KEPT
