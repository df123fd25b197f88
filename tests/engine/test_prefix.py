"""Prompts that begin alike are read once, and no table shows it."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steered import CODEC, DONE, LM, TALK, E, clock, rows
from test_schedules import LMS, STOPS

from stretto.engine import Engine, Limits, SamplingParams
from stretto.engine.backends import open_backend
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.prefix import KEPT
from stretto.engine.session import Session
from stretto.errors import LimitError
from stretto.streams import AUDIT, READ, StreamSet

CELL = open_backend("transformers", LM).cell_bytes
SYSTEM = [t % 90 for t in range(60)]


def opened(engine: Engine, user: list[int], **options: object) -> Session:
    options = {"sampling": TALK, "limits": Limits(max_rows=4), **options}
    return engine.open(prompts={"user": user}, clock=clock(), **options)  # type: ignore[arg-type]


def test_a_beginning_is_read_once() -> None:
    engine = Engine(LM, CODEC, backend="transformers")
    first = opened(engine, [*SYSTEM, 1, 2, 3])
    engine.run([first])
    before = engine.stats()
    assert before.prefix_hits == 0 and before.cached_bytes == 63 * CELL
    second = opened(engine, [*SYSTEM, 7])
    engine.run([second])
    after = engine.stats()
    # One cell of the prompt is its own; then four rows, the last of which nobody reads.
    assert (after.prefix_hits, after.prefix_cells, after.cells - before.cells) == (1, 60, 1 + 3)
    assert rows(first) == rows(second)
    without = Engine(LM, CODEC, backend="transformers", prefix_cache=False)
    again = opened(without, [*SYSTEM, 7])
    without.run([again])
    assert rows(again) == rows(second) and without.stats().prefix_hits == 0


def test_sessions_opened_together_share_too() -> None:
    """Also with one that is still alive, and while a long prompt is read in parts."""
    engine = Engine(LM, CODEC, backend="transformers", chunk=25)
    eight = [opened(engine, [*SYSTEM, i], limits=Limits(max_rows=50)) for i in range(8)]
    while not all(session.rows for session in eight):
        engine.step()
    engine.step()
    late = opened(engine, [*SYSTEM, 3])
    engine.run([late])
    assert engine.stats().prefix_hits == 8
    assert sum(len(s.rows) for s in eight) + len(late.rows) + 60 + 9 >= engine.stats().cells
    assert engine.stats().prefix_cells == 8 * 60 + 0


def test_what_is_asked_is_always_read() -> None:
    """The last cell of an output's prompt has a query: it needs a pass of its own."""
    lm = LMS["audit"]
    engine = Engine(lm, CODEC)
    prompts = {"user": SYSTEM, "answer": [5] * 20, "audit": [6] * 20}
    made = []
    for _i in range(2):
        session = engine.open(prompts=prompts, limits=Limits(max_rows=6), clock=clock())
        engine.run([session])
        made.append(session)
    assert engine.stats().prefix_cells == 60 + 19
    assert np.array_equal(made[0].table.rows, made[1].table.rows)
    only_inputs = Engine(LM, CODEC, backend="transformers")
    for _i in range(2):
        only_inputs.run([opened(only_inputs, SYSTEM)])
    assert only_inputs.stats().prefix_cells == 59


def test_the_same_tokens_on_another_stream_are_something_else() -> None:
    lm = LMS["audit"]
    engine = Engine(lm, CODEC)
    for name in ("user", "answer"):
        session = engine.open(prompts={name: SYSTEM}, limits=Limits(max_rows=2), clock=clock())
        engine.run([session])
    assert engine.stats().prefix_hits == 0
    # The stream counts, not its place in the session's set.
    for streams in (READ, StreamSet(list(AUDIT)[::-1])):
        session = engine.open(streams, prompts={"user": SYSTEM}, clock=clock(),
                              limits=Limits(max_rows=2))  # fmt: skip
        engine.run([session])
    assert engine.stats().prefix_hits == 2


@pytest.mark.parametrize("which", sorted(LMS))
@settings(max_examples=15)
@given(st.data())
def test_tables_are_equal_with_and_without(which: str, data: st.DataObject) -> None:
    lm = LMS[which]
    base = data.draw(st.lists(st.integers(0, 3), min_size=20, max_size=50))
    names = [s.name for s in lm.streams if s.name in ("user", "answer", "say", "think")]
    asked = []
    for _i in range(data.draw(st.integers(2, 5))):
        cut = data.draw(st.integers(0, len(base)))
        rest = data.draw(st.lists(st.integers(0, 3), max_size=20))
        asked.append((data.draw(st.permutations(names))[:2], base[:cut] + rest,
                      data.draw(st.integers(0, 6))))  # fmt: skip
    chunk, tables = data.draw(st.sampled_from([3, 20, 500])), []
    for prefix_cache in (True, False):
        engine = Engine(lm, CODEC, chunk=chunk, prefix_cache=prefix_cache, max_sessions=3)
        sessions = []
        for used, tokens, steps in asked:
            prompts = {name: tokens or [1] for name in used}
            sessions.append(engine.open(
                prompts=prompts, sampling=SamplingParams(stop_ids=STOPS), clock=clock(),
                limits=Limits(max_rows=6)))  # fmt: skip
            for _i in range(steps):
                engine.step()
        engine.run(sessions)
        tables.append([session.table for session in sessions])
    assert tables[0] == tables[1]


def test_kept_beginnings_are_bounded_and_given_up_first() -> None:
    engine = Engine(LM, CODEC, backend="transformers", max_cache_bytes=512 * CELL)
    for i in range(6):
        engine.run([opened(engine, [i] * 50)])
    held = engine.open(prompts={"user": [99] * 10}, sampling=DONE, clock=clock())
    engine.step()  # frees what is over, and keeps a quarter of the cells at most: two of 64
    assert engine.stats().cached_bytes == (2 * 50 + 10) * CELL
    engine.run([opened(engine, [4] * 50)])  # used again: [5] is now the oldest
    held.send("user", [1] * 400)
    engine.step()
    assert held.finish_reason is None and engine.stats().evictions == 0
    assert engine.stats().cached_bytes <= 512 * CELL
    held.cancel()
    engine.step()


def test_the_least_recently_used_is_forgotten() -> None:
    engine = Engine(LM, CODEC, backend="transformers", max_cache_bytes=512 * CELL)
    for i in (1, 2, 1, 3):
        engine.run([opened(engine, [i] * 50)])
    engine.run([opened(engine, [4])])  # a step in which there are three
    before = engine.stats().prefix_hits
    for i, hits in ((1, 1), (3, 2), (2, 2)):
        engine.run([opened(engine, [i] * 50, limits=Limits(max_rows=1))])
        assert engine.stats().prefix_hits - before == hits


def test_longer_beginnings_replace_shorter_ones_and_errors_keep_none() -> None:
    engine = Engine(LM, CODEC, backend="transformers")
    for cells in (20, 40, 60, 30):
        engine.run([opened(engine, SYSTEM[:cells])])
    engine.step()
    assert engine.stats().cached_bytes == 60 * CELL and engine.stats().prefix_hits == 3
    broken = opened(engine, [7] * 50, sampling=TALK)
    engine.step()
    broken.fail(RuntimeError("half written"))
    engine.step()
    assert engine.stats().cached_bytes == 60 * CELL
    assert E not in rows(broken)


def test_short_beginnings_do_not_pile_up_and_can_be_given_up() -> None:
    engine = Engine(LM, CODEC, backend="transformers")
    for i in range(KEPT + 5):
        engine.run([opened(engine, [i, *SYSTEM[:20]], limits=Limits(max_rows=1))])
    assert engine.stats().cached_bytes == KEPT * 21 * CELL
    engine.run([opened(engine, [4, *SYSTEM[:20]], limits=Limits(max_rows=1))])
    assert engine.stats().prefix_hits == 0  # forgotten: the least recently used
    engine.run([opened(engine, [KEPT, *SYSTEM[:20]], limits=Limits(max_rows=1))])
    assert engine.stats().prefix_hits == 1
    engine.forget_prefixes()
    assert engine.stats().cached_bytes == 0


@pytest.mark.parametrize("stop", [0, 1, 3, 100])
def test_a_session_that_is_over_is_freed_at_once(stop: int) -> None:
    """With no help of the collector: it holds rows, decoders and matchers."""
    engine = Engine(LM, CODEC, chunk=25)
    session = opened(engine, SYSTEM)
    for _ in range(stop):
        engine.step()
    session.cancel()
    engine.step()
    ref = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert ref() is None
    finally:
        gc.enable()


class FewLines(TransformersBackend):
    """Has five lines, as llama.cpp has 128."""

    taken = 0

    def open(self) -> int:
        if self.taken == 5:
            raise LimitError("five lines at most")
        self.taken += 1
        return super().open()

    def release(self, line: int) -> None:
        super().release(line)
        self.taken -= 1


def test_kept_beginnings_make_way_where_lines_are_scarce() -> None:
    backend = FewLines(LM)
    engine = Engine(LM, CODEC, backend=backend)
    made = []
    for wave in range(4):
        five = [opened(engine, [*SYSTEM[: 20 + wave], wave, i]) for i in range(5)]
        engine.run(five)
        made += five
    assert {session.finish_reason for session in made} == {"max_rows"}
    assert engine.stats().prefix_hits > 0 and backend.taken <= 5
    talking = [opened(engine, [i] * 20, limits=Limits(max_rows=99)) for i in range(4)]
    engine.step()
    engine.fork(talking[0])
    with pytest.raises(LimitError, match="five lines"):
        engine.fork(talking[0])
    late = opened(engine, SYSTEM)
    engine.step()
    assert late.finish_reason == "error" and isinstance(late.error, LimitError)
    assert all(session.finish_reason is None for session in talking)
    assert engine.stats().waiting == 0


def test_a_beginning_that_cannot_be_kept_leaves_no_line_behind() -> None:
    engine = Engine(LM, CODEC, backend="transformers")
    prefixes = engine._prefixes
    assert prefixes is not None
    session = opened(engine, SYSTEM)

    def broken(line: int, cells: int) -> int:
        raise ZeroDivisionError

    engine._backend.fork = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        engine.run([session])
    assert session.finish_reason == "max_rows" and session.line is None
    assert engine.stats().cached_bytes == 0
