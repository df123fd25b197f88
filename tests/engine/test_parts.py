"""Long ticks are read in parts; no table shows it, and nobody waits long for them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steered import CODEC, DONE, LM, STEP, TALK, E, S, _, clock, rows
from test_schedules import LMS, SETS, check_equals_reference, script
from torch import Tensor

from stretto.engine import Engine, Limits, SamplingParams, VirtualClock
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError


@pytest.mark.parametrize("which", sorted(LMS))
@settings(max_examples=20)
@given(st.data())
def test_the_parts_do_not_show(which: str, data: st.DataObject) -> None:
    """Whatever is sent, interrupted or cancelled between parts: the slow twin's table."""
    lm = LMS[which]
    scripts = data.draw(st.lists(script(SETS[which]), min_size=1, max_size=3))
    engine = Engine(lm, CODEC, chunk=data.draw(st.integers(1, 7)))
    check_equals_reference(lm, engine, scripts)


class Watched(TransformersBackend):
    """Notes the shape of every pass."""

    def __init__(self, lm: object) -> None:
        super().__init__(lm)  # type: ignore[arg-type]
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, batch: RowBatch) -> Tensor:
        self.shapes.append(batch.tokens.shape)
        return super().forward(batch)


def test_a_long_prompt_does_not_stall_conversations() -> None:
    backend = Watched(LM)
    engine = Engine(LM, CODEC, backend=backend, chunk=50)
    talking = [engine.open(sampling=TALK, clock=clock()) for _i in range(3)]
    engine.step()
    prompts = [engine.open(prompts={"user": [i] * 600}, sampling=TALK, clock=clock())
               for i in range(2)]  # fmt: skip
    catching_up = engine.open(sampling=TALK, clock=clock())
    catching_up.send("user", list(range(230)))
    while not (all(p.rows for p in prompts) and len(catching_up.rows) > 230):
        before = len(talking[0].rows)
        engine.step()
        engine.step()
        assert len(talking[0].rows) == before + 1
    assert max(b * width for b, width in backend.shapes) <= 50
    assert len({len(session.rows) for session in talking}) == 1


def test_who_is_alone_is_read_in_parts_too_and_all_prompts_together() -> None:
    backend = Watched(LM)
    engine = Engine(LM, CODEC, backend=backend, chunk=64)
    for i in range(3):
        engine.open(prompts={"user": [i] * 100}, sampling=TALK, clock=clock())
    for _i in range(3):
        engine.step()
    assert backend.shapes == [(3, 64), (3, 36), (3, 1)]


def test_rows_of_a_long_tick_are_told_once_and_time_counts_once() -> None:
    engine = Engine(LM, CODEC, chunk=10)
    asked = []
    session = engine.open(sampling=TALK, limits=Limits(max_rows=40), clock=VirtualClock(
        lambda cells, cached: asked.append((cells, cached)) or STEP))  # fmt: skip
    session.send("user", list(range(25)))
    steps = [[row.index for row in done] for _i in range(4) for _s, done in engine.step()]
    assert steps == [list(range(25)), [], [], [25]]
    assert asked == [(26, 0), (1, 25)]
    assert session.input_end_time == pytest.approx(STEP)


def test_a_row_of_many_streams_is_never_cut() -> None:
    lm = LMS["agent"]
    backend = Watched(lm)
    engine = Engine(lm, CODEC, backend=backend, chunk=1)
    session = engine.open("agent", sampling=DONE, clock=clock())
    for name in ("user", "result"):
        session.send(name, [1, 2, 3])
    engine.step()
    assert [len(row.tokens) for row in session.rows] == [2, 2, 2 + 3]
    for _i in range(2):
        engine.step()
    assert [shape[1] for shape in backend.shapes] == [2, 2, 5]


def test_cancelled_while_half_read() -> None:
    engine = Engine(LM, CODEC, chunk=8)
    session, other = (engine.open(sampling=TALK, limits=Limits(max_rows=60), clock=clock())
                      for _i in range(2))  # fmt: skip
    session.send("user", list(range(30)))
    engine.step()
    assert session.is_reading and len(session.rows) == 30
    session.cancel()
    engine.run([other])
    assert rows(session)[-1] == [29, S] and session.line is None
    assert rows(other) == [[_, S], *[[_, 65]] * 59]


def test_chunk_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="chunk is 0"):
        Engine(LM, CODEC, chunk=0)


def test_random_numbers_do_not_depend_on_parts() -> None:
    """Several streams are asked in one prefill; their numbers are drawn in the same order."""
    lm = LMS["agent"]
    prompts = {"user": [1] * 9, "think": [2] * 9, "say": [3] * 9, "code": [4]}
    tables = []
    for chunk in (4, 1000):
        session = Engine(lm, CODEC, chunk=chunk).open(
            "agent", prompts=prompts, sampling=SamplingParams(temperature=3.0),
            limits=Limits(max_rows=9), seed=7, clock=clock())  # fmt: skip
        list(session.iter())
        tables.append(session.table.rows)
    assert np.array_equal(*tables) and not (tables[0] == E).all()
