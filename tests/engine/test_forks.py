"""Two futures share their past, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steered import CODEC, DONE, HUSH, LM, STEP, TALK, E, S, _, clock, rows
from test_schedules import LMS, SETS, script

from stretto.engine import Engine, Grammar, Limits, SamplingParams, VirtualClock, reference
from stretto.engine.backends import open_backend
from stretto.engine.session import Session
from stretto.engine.testing import tiny_lm
from stretto.errors import InputError, LimitError
from stretto.streams import READ, StreamTable

WARM = SamplingParams(temperature=2.0, repetition_penalty=1.4, silence_bias=2.0)


@pytest.mark.parametrize("which", sorted(LMS))
@settings(max_examples=20)
@given(st.data())
def test_a_fork_goes_on_as_its_parent(which: str, data: st.DataObject) -> None:
    """At any step, in the middle of a tick too: both are the slow twin's table."""
    lm, played = LMS[which], data.draw(script(SETS[which]))
    engine = Engine(lm, CODEC, chunk=data.draw(st.sampled_from([2, 5, 1000])))
    parent = engine.open(played.streams, prompts=played.prompts, sampling=played.sampling,
                         limits=played.limits, seed=played.seed,
                         clock=VirtualClock(played.latency))  # fmt: skip
    parent.feed(played.arrivals, closed=played.closed)
    for _i in range(data.draw(st.integers(0, 12))):
        engine.step()
    both = [parent]
    for _i in range(data.draw(st.integers(1, 2))):
        if both[-1].finish_reason is None:
            both.append(both[-1].fork())
            engine.step()
    if data.draw(st.booleans()):
        both = both[::-1]
    for session in both:  # one after the other is over, and its line is given again
        engine.run([session])
    script_only = reference.Script(
        played.streams, played.prompts, played.arrivals, played.closed, (), played.sampling,
        played.limits, played.seed, played.latency)  # fmt: skip
    expected = reference.run(lm, script_only)
    for session in both:
        assert session.table == expected
        assert session.finish_reason == expected.meta["finish_reason"]
        assert [row.index for row in session.rows] == list(range(len(expected)))


def test_what_one_is_sent_the_other_never_sees() -> None:
    def opened() -> tuple[Engine, Session]:
        engine = Engine(tiny_lm(READ), CODEC)
        session = engine.open(prompts={"user": [5, 6]}, sampling=WARM,
                              limits=Limits(max_rows=30), seed=4, clock=clock())  # fmt: skip
        session.send("user", [1, 2, 3, 4], rate=1 / STEP)
        for _i in range(3):
            engine.step()
        return engine, session

    engine, parent = opened()
    fork = parent.fork()
    assert fork.table == parent.table and len(fork.table.meta["sends"]) == 1
    parent.send("user", [70] * 5)
    fork.interrupt("user", [80])
    engine.run([parent, fork])
    engine, alone = opened()
    alone.send("user", [70] * 5)
    engine.run([alone])
    engine, other = opened()
    other.interrupt("user", [80])
    engine.run([other])
    assert rows(parent) == rows(alone) != rows(fork) == rows(other)
    assert [s["tokens"] for s in fork.table.meta["sends"]] == [[1, 2, 3, 4], [80]]


def test_forks_with_seeds_differ_and_replay() -> None:
    engine = Engine(tiny_lm(READ), CODEC, chunk=6)
    for steps in range(8):  # before, within and after a prefill; within a backlog
        parent = engine.open(prompts={"user": [3] * 8, "answer": [4] * 8}, sampling=WARM,
                             limits=Limits(max_rows=40), seed=1, clock=clock())  # fmt: skip
        parent.feed([(0.05, "user", 9)] * 9)
        for _i in range(steps):
            engine.step()
        forks = [parent.fork(seed) for seed in (1, 2, 3)]
        engine.step()
        forks.append(forks[1].fork(7))
        engine.run([parent, *forks])
        futures = [session.table for session in (parent, *forks)]
        assert len({table.rows.tobytes() for table in futures}) >= 4
        for table in futures:
            again = StreamTable.from_jsonl(table.to_jsonl(), CODEC)
            assert engine.replay(again) == table
    assert [at["seed"] for at in futures[-1].meta["reseeded"]] == [2, 7]
    assert "reseeded" not in futures[0].meta
    changed = StreamTable.from_jsonl(futures[-1].to_jsonl(), CODEC)
    del changed.meta["reseeded"]
    with pytest.raises(InputError, match="replay differs"):
        engine.replay(changed)


def test_the_fork_outlives_its_parent() -> None:
    engine = Engine(LM, CODEC)
    parent = engine.open(sampling=TALK, limits=Limits(max_rows=9), clock=clock())
    for _i in range(4):
        engine.step()
    fork = parent.fork()
    parent.cancel()
    engine.run([fork])
    assert len(parent.rows) == 4 and rows(fork) == [[_, S], *[[_, 65]] * 8]
    assert fork.clock.now() == pytest.approx(8 * STEP)  # its own time
    with pytest.raises(InputError, match=r"session is over \(cancelled\)"):
        parent.fork()


def test_a_fork_needs_a_place_and_memory() -> None:
    engine = Engine(LM, CODEC, max_sessions=1)
    parent = engine.open(sampling=TALK, limits=Limits(max_rows=3), clock=clock())
    waiting = parent.fork()  # nothing is held yet: it queues up
    engine.step()
    with pytest.raises(LimitError, match="all 1 sessions that may be active are"):
        parent.fork()
    engine.run([parent, waiting])
    assert rows(parent) == rows(waiting) and engine.stats().active == 0
    cell = open_backend("transformers", LM).cell_bytes
    small = Engine(LM, CODEC, backend="transformers", max_cache_bytes=512 * cell)
    parent = small.open(sampling=DONE, prompts={"user": [1] * 200}, clock=clock())
    small.step()
    with pytest.raises(LimitError, match="512 cells has no room for a fork of 128"):
        parent.fork()


def test_half_a_character_and_half_a_message_are_shared() -> None:
    engine = Engine(LM, CODEC)
    parent = engine.open(sampling=HUSH, limits=Limits(max_rows=20, quiet_rows=1), clock=clock())
    first, second = CODEC.encode("é")
    parent.send("user", [first])
    engine.step()
    fork = parent.fork()
    for session in (parent, fork):
        session.send("user", [second])
        session.close()
    engine.run([parent, fork])
    for session in (parent, fork):
        assert [row.text["user"] for row in session.rows if "user" in row.text] == ["é"]


def test_a_grammar_is_shared_up_to_the_row() -> None:
    pytest.importorskip("llguidance")
    engine = Engine(LM, CODEC)
    params = SamplingParams(grammar=Grammar.regex("(abcd|abxy)", pauses=False), temperature=9.0)
    parent = engine.open(sampling=params, limits=Limits(max_rows=40), seed=3, clock=clock())
    parent.close()
    while parent.table.text("answer") != "a":  # then "b" is decided, and nothing else
        engine.step()
    forks = [parent.fork(seed) for seed in range(8)]
    engine.run([parent, *forks])
    assert {fork.table.text("answer") for fork in forks} == {"abcd", "abxy"}
    assert all(fork.table.rows[-1, 1] == E for fork in forks)


def test_the_engine_is_the_home() -> None:
    engine = Engine(LM, CODEC)
    session = engine.open(sampling=TALK, limits=Limits(max_rows=5), clock=clock(), priority=3)
    engine.step()
    fork = engine.fork(session, seed=1)
    assert fork.priority == 3 and fork.arrival > session.arrival
    engine.run([session, fork])
    assert np.array_equal(session.table.rows, fork.table.rows)


def test_a_session_may_be_cancelled_while_it_is_forked() -> None:
    engine = Engine(LM, CODEC)
    parent = engine.open(prompts={"user": [5] * 9}, sampling=TALK, limits=Limits(max_rows=6),
                         clock=clock())  # fmt: skip
    for _i in range(3):
        engine.step()
    copy = parent.copy

    def then_cancelled(seed: int | None) -> Session:
        made = copy(seed)
        parent.cancel()  # as another thread might
        return made

    parent.copy = then_cancelled  # type: ignore[method-assign]
    fork = parent.fork()
    engine.run([fork])
    assert (parent.finish_reason, fork.finish_reason) == ("cancelled", "max_rows")
    assert len(fork.rows) == 6 and engine.stats().active == 0
