"""Rows, arrivals, limits and endings, on a tiny random model steered by what it may sample."""

import threading

import numpy as np
import pytest
import torch
from steered import CODEC, DONE, HUSH, LM, STEP, TALK, E, S, _, clock, rows
from torch import Tensor

from stretto.engine import Engine, Limits, SamplingParams, WallClock, reference
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.engine.reference import Script
from stretto.engine.testing import play, scripts, tiny_lm
from stretto.errors import ConfigError, InputError
from stretto.streams import ABSENT, AGENT, AUDIT, READ, SINGLE, StreamTable
from stretto.streams.ticks import validate


@pytest.fixture
def engine() -> Engine:
    return Engine(LM, CODEC)


def test_steady_arrival_makes_a_row_a_token(engine: Engine) -> None:
    session = engine.open(sampling=DONE, clock=clock())
    session.send("user", "ab", rate=1 / STEP)
    session.close()
    engine.run([session])
    a, b = CODEC.encode("ab")
    # The user's `end` comes with "b": a burst of two, which wakes nobody, as `end` is said in it.
    assert rows(session) == [[a, S], [b, _], [E, E]]
    validate(session.table)
    assert session.finish_reason == "end"


def test_backlog_is_read_in_one_pass(engine: Engine) -> None:
    session = engine.open(sampling=TALK, limits=Limits(max_rows=7), clock=clock())
    session.send("user", [1, 2, 3])
    session.close("user")
    steps = [[row.index for row in rows_done] for _, rows_done in (engine.step(), engine.step())[0]]
    assert steps == [[0, 1, 2, 3]]
    assert rows(session)[:5] == [[1, _], [2, _], [3, _], [E, S], [_, 65]]
    assert (session.input_end_row, session.input_end_time) == (3, pytest.approx(STEP))


def test_what_is_said_was_decided_a_tick_before(engine: Engine) -> None:
    """The first answer after a burst comes in the next tick, whatever arrives in it."""
    session = engine.open(sampling=TALK, limits=Limits(max_rows=6), clock=clock())
    session.feed([(0.0, "user", 1), (0.05, "user", 2), (0.06, "user", 3)], closed=False)
    engine.run([session])
    assert rows(session) == [[1, S], [2, _], [3, 65], [_, 65], [_, 65], [_, 65]]
    assert session.finish_reason == "max_rows"


def test_prompts_are_read_first(engine: Engine) -> None:
    session = engine.open(prompts={"answer": "x", "user": [7]}, sampling=TALK,
                          limits=Limits(max_rows=2), clock=clock())  # fmt: skip
    assert engine.step() == [(session, [])]
    assert session.input_end_row == -1
    engine.run([session])
    assert rows(session) == [[_, 65], [_, 65]]
    assert [row.time for row in session.rows] == pytest.approx([STEP, 2 * STEP])


def test_wake_up_after_end(engine: Engine) -> None:
    session = engine.open(sampling=DONE, clock=clock())
    session.feed([(0.0, "user", 1), (5.0, "user", 2), (9.0, "user", E)])
    engine.run([session])
    assert rows(session) == [[1, S], [_, E], [2, S], [_, E], [E, S], [_, E]]
    assert session.finish_reason == "end"
    # At rest nothing is computed, and the clock jumps.
    assert [row.time for row in session.rows] == pytest.approx([0, 0.1, 5.0, 5.1, 9.0, 9.1])


def test_all_silent_halts(engine: Engine) -> None:
    session = engine.open(sampling=HUSH, limits=Limits(quiet_rows=5), clock=clock())
    session.send("user", [1, 2], rate=2.0)
    session.close()
    engine.run([session])
    last = int(np.flatnonzero(session.table.rows[:, 0] == E)[0])
    assert session.finish_reason == "quiet" and len(session.rows) == last + 1 + 5


def test_an_open_input_that_never_comes_is_quiet(engine: Engine) -> None:
    session = engine.open(sampling=DONE, clock=clock())
    session.send("user", [1])
    assert [row.index for row in session.iter()] == [0, 1]
    assert session.finish_reason == "quiet"


def test_deadline(engine: Engine) -> None:
    session = engine.open(sampling=TALK, limits=Limits(deadline_s=0.95), clock=clock())
    engine.run([session])
    assert session.finish_reason == "deadline" and len(session.rows) == 10
    resting = engine.open(sampling=DONE, limits=Limits(deadline_s=1.0), clock=clock())
    resting.feed([(0.0, "user", 1), (7.0, "user", 2)])
    engine.run([resting])
    assert resting.finish_reason == "deadline" and resting.clock.now() == pytest.approx(1.0)


def test_max_message_tokens_ends_a_message(engine: Engine) -> None:
    session = engine.open(sampling=TALK, limits=Limits(max_message_tokens=3), clock=clock())
    session.close("user")
    engine.run([session])
    assert rows(session)[-5:] == [[E, S], [_, 65], [_, 65], [_, 65], [_, E]]


@pytest.mark.parametrize("prompts", [{}, {"user": [1], "answer": [66] * 5}])
def test_max_message_tokens_holds_for_every_message(engine: Engine, prompts: dict) -> None:
    """Whatever woke it, a message has at most 3 tokens; silence and the prompt do not count."""
    arrivals = [(0.0, "user", 1), (2.0, "user", 2), *((4 + STEP * i, "user", i) for i in range(9))]
    may_pause = SamplingParams(temperature=2.0, allowed=(65, S))
    for params in (TALK, may_pause):
        script = Script(
            READ, prompts, arrivals, sampling={"answer": params}, latency=lambda c, k: STEP,
            limits=Limits(max_rows=60, max_message_tokens=3, quiet_rows=60), seed=3,
        )  # fmt: skip
        [table] = play(engine, [script])
        said = [t for t in table.rows[:, 1].tolist() if t not in (S, _)]
        assert said == [65, 65, 65, E] * said.count(E) and said.count(E) >= 3
        assert table == reference.run(LM, script)


def test_a_burst_is_cut_at_max_rows(engine: Engine) -> None:
    session = engine.open(sampling=TALK, limits=Limits(max_rows=4), clock=clock())
    session.send("user", list(range(10)))
    engine.run([session])
    assert rows(session) == [[0, _], [1, _], [2, _], [3, S]]


def test_positions_of_the_base_are_a_limit(engine: Engine) -> None:
    most = LM.config.max_position_embeddings
    session = engine.open(prompts={"user": [1] * (most - 3)}, sampling=TALK, clock=clock())
    engine.run([session])
    assert session.finish_reason == "max_rows" and len(session.rows) == 3
    with pytest.raises(InputError, match="positions"):
        engine.open(prompts={"user": [1] * most})


def test_interrupt_drops_what_has_not_arrived(engine: Engine) -> None:
    session = engine.open(sampling=HUSH, limits=Limits(max_rows=20, quiet_rows=2), clock=clock())
    session.send("user", [1, 2, 3, 4, 5], rate=1 / STEP)
    engine.step()
    engine.step()
    assert session.interrupt("user", [9, 9], end=True) == 2
    session.close()
    engine.run([session])
    assert [t for t in session.table.rows[:, 0].tolist() if t != _] == [1, 2, 3, 9, 9, E]


def test_sends_queue_up_and_ends_are_not_doubled(engine: Engine) -> None:
    session = engine.open(sampling=HUSH, limits=Limits(quiet_rows=1), clock=clock())
    session.send("user", [1, 2], rate=5.0)
    session.send("user", [3, 4], rate=5.0, end=True)
    session.close()
    session.close("user")
    times = {}
    for row in session.iter():
        if "user" in row.tokens:
            times.setdefault(row.tokens["user"], row.time)
    assert times == pytest.approx({1: 0.0, 2: 0.2, 3: 0.4, 4: 0.6, E: 0.6}, abs=1e-6)


def test_closing_everything_says_nothing_on_streams_that_never_spoke() -> None:
    engine = Engine(tiny_lm(AGENT), CODEC)
    session = engine.open("agent", prompts={"system": "be"}, sampling=DONE, clock=clock())
    session.send("user", [1])
    session.close()
    engine.run([session])
    assert session.finish_reason == "end"
    assert (session.table.rows[:, session.streams.index("result")] == ABSENT).all()
    assert rows(session)[:2] == [[_, 1, _, _, _, _], [_, E, _, S, S, S]]


def test_a_stream_that_is_closed_takes_nothing_but_an_interrupt(engine: Engine) -> None:
    session = engine.open(sampling=HUSH, limits=Limits(quiet_rows=1), clock=clock())
    session.send("user", [1, 2, 3], rate=1 / STEP)
    session.close("user")
    with pytest.raises(InputError, match="'user' is closed: only interrupt"):
        session.send("user", [4])
    with pytest.raises(InputError, match="'user' is closed"):
        session.feed([(0.0, "user", 4)])
    engine.step()
    assert session.interrupt("user", [9]) == 2  # 3 and its `end`
    session.send("user", [8])
    session.close("user")
    engine.run([session])
    assert [t for t in session.table.rows[:, 0].tolist() if t != _] == [1, 2, 9, 8, E]
    with pytest.raises(InputError, match=r"session is over \(quiet\)"):
        session.interrupt("user", [1])


def test_an_interrupt_before_the_prefill_is_read_after_it(engine: Engine) -> None:
    session = engine.open(prompts={"user": [7]}, sampling=TALK, limits=Limits(max_rows=3),
                          clock=clock())  # fmt: skip
    session.send("user", [1, 2, 3], rate=1 / STEP)
    assert session.interrupt("user", [5]) == 2
    engine.run([session])
    assert rows(session) == [[1, _], [5, S], [_, 65]]


def test_what_is_done_during_a_forward_pass_counts_from_the_next_tick() -> None:
    """As from another thread: sent, interrupted, cancelled while the back end works."""
    todo = []

    class Busy(TransformersBackend):
        def forward(self, batch: RowBatch) -> Tensor:
            if todo:
                todo.pop(0)()
            return super().forward(batch)

    engine = Engine(LM, CODEC, backend=Busy(LM))
    session = engine.open(sampling=TALK, clock=clock())
    session.send("user", list(range(9)), rate=1.5 / STEP)
    todo += [lambda: session.interrupt("user", [5, 6]), lambda: None, session.cancel]
    for _i in range(4):
        engine.step()
    # Cancelled while the third tick was read: what it said stays, what was sampled is dropped.
    assert rows(session) == [[0, S], [5, _], [6, 65], [_, 65]]
    assert session.finish_reason == "cancelled" and engine.step() == []


def test_deadline_while_nothing_ever_arrives() -> None:
    """Silent rows go on until then, in virtual time and in real time."""
    engine = Engine(LM, CODEC)
    for used in (clock(), WallClock()):
        session = engine.open(sampling=HUSH, limits=Limits(max_rows=9999, deadline_s=0.25),
                              clock=used)  # fmt: skip
        engine.run([session])
        assert session.finish_reason == "deadline"
        assert session.rows and all(row.tokens == {"answer": S} for row in session.rows)
    assert session.clock.now() < 60


def test_a_cancelled_session_ignores_what_was_sampled_meanwhile(engine: Engine) -> None:
    session = engine.open(sampling=TALK, clock=clock())
    engine.step()
    session.cancel("user left")
    assert engine.step() == []
    assert session.table.meta["finish_reason"] == "user left"


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_penalties_and_many_inputs_equal_the_reference(temperature: float) -> None:
    lm = tiny_lm(AGENT, mask_rule="strict", seed=3)
    params = SamplingParams(temperature=temperature, repetition_penalty=1.8, top_k=20, min_p=0.02,
                            stop_ids=tuple(range(0, 256, 9)))  # fmt: skip
    arrivals = [(0.0, "user", 1), (0.0, "result", 2), (0.0, "result", 3), (0.21, "user", 4)]
    script = Script(
        AGENT, {"system": [1, 2], "think": [5]}, arrivals,
        sampling=dict.fromkeys(("think", "say", "code"), params),
        limits=Limits(max_rows=25, quiet_rows=5), seed=5, latency=lambda c, k: 0.01 * c + 0.001 * k,
    )  # fmt: skip
    assert play(Engine(lm, CODEC), [script])[0] == reference.run(lm, script)


def test_replay(engine: Engine) -> None:
    lm = tiny_lm(AUDIT)
    engine = Engine(lm, CODEC)
    tables = play(engine, scripts(lm))
    for table in tables:
        assert engine.replay(StreamTable.from_jsonl(table.to_jsonl(), CODEC)) == table
    saved = tables[-1]
    row, stream = np.argwhere(saved.is_content() & (np.arange(3) == 1))[-1]
    saved.rows[row, stream] ^= 1
    with pytest.raises(InputError, match=f"from row {row}, stream 'answer'"):
        engine.replay(saved)
    with pytest.raises(InputError, match="what a replay needs"):
        engine.replay(StreamTable(AUDIT, lm.special))


def test_text_comes_whole_and_complete(engine: Engine) -> None:
    session = engine.open(sampling=HUSH, limits=Limits(max_rows=40, quiet_rows=1), clock=clock())
    session.send("user", "é 🚀!", rate=1 / STEP)
    session.close()
    pieces = [row.text["user"] for row in session.iter() if "user" in row.text]
    assert pieces == ["é", " ", "🚀", "!"]
    assert session.table.text("user") == "é 🚀!"


def test_wall_clock_waits_for_arrivals(engine: Engine) -> None:
    session = engine.open(sampling=DONE, limits=Limits(max_rows=50), clock=WallClock())
    session.send("user", [1, 2, 3], rate=10.0)
    session.close()
    engine.run([session])
    arrived = {row.tokens["user"]: row.time for row in session.rows if "user" in row.tokens}
    assert arrived[2] >= 0.1 and arrived[3] >= 0.2 and session.finish_reason == "end"


def test_a_base_model_never_says_silence_or_end() -> None:
    lm = tiny_lm(SINGLE)
    engine = Engine(lm, CODEC, stop_ids=[7])
    session = engine.open(prompts={"text": "abc"}, sampling=SamplingParams(temperature=3.0),
                          limits=Limits(max_rows=400), clock=clock())  # fmt: skip
    engine.run([session])
    column = session.table.rows[:, 0]
    assert not (column == S).any() and (column == 7).sum() == 0
    assert session.finish_reason == ("end" if column[-1] == E else "max_rows")


def test_refusals(engine: Engine) -> None:
    with pytest.raises(InputError, match="no stream 'audit'"):
        engine.open("audit")
    with pytest.raises(ConfigError, match="sampling for 'user'"):
        engine.open(sampling={"user": TALK})
    with pytest.raises(InputError, match="prompt of 'user'"):
        engine.open(prompts={"user": [S]})
    with pytest.raises(InputError, match="no stream 'who'"):
        engine.open(prompts={"who": "x"})
    with pytest.raises(ConfigError, match="max_sessions"):
        Engine(LM, CODEC, max_sessions=0)
    with pytest.raises(ConfigError, match="load both from the same place"):
        Engine(LM, type(CODEC)(CODEC.tokenizer_json, type(CODEC.special).after(9)))
    used = clock()
    session = engine.open(clock=used)
    with pytest.raises(ConfigError, match="a clock serves one session"):
        engine.open(clock=used)
    with pytest.raises(InputError, match="is an output"):
        session.send("answer", "x")
    with pytest.raises(InputError, match="rate 0"):
        session.send("user", "x", rate=0)
    with pytest.raises(InputError, match="not silence"):
        session.send("user", [S])


def test_nothing_keeps_a_graph(engine: Engine) -> None:
    session = engine.open(sampling=TALK, limits=Limits(max_rows=3), clock=clock())
    engine.run([session])
    assert torch.is_grad_enabled() and all(p.grad is None for p in LM.parameters())


@pytest.mark.parametrize(
    "arrivals",
    [
        [(0.0, "user", 1), (0.0, "nobody", 1)],
        [(0.0, "user", 1), (0.0, "user", 10**6)],
        [(0.0, "user", 1), (float("nan"), "user", 1)],
        [(0.0, "user", 1), (float("inf"), "user", 1)],
    ],
)
def test_nothing_is_fed_if_something_cannot_be(arrivals: list) -> None:
    session = Engine(LM, CODEC).open(sampling=DONE, clock=clock())
    with pytest.raises(InputError):
        session.feed(arrivals)
    assert session._inputs.pending == 0 and session.table.meta["sends"] == []


def test_one_may_wait_for_what_comes_in_thirty_thousand_years() -> None:
    engine = Engine(LM, CODEC)
    session = engine.open(sampling=DONE)
    session.send("user", [1, 2], rate=1e-12)
    threading.Timer(0.2, session.cancel).start()
    engine.run([session])
    assert session.finish_reason == "cancelled"
