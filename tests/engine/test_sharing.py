"""Several sessions of one engine: lines and turns, failures, threads; nobody sees the company."""

import threading

import pytest
from steered import CODEC, DONE, LM, TALK, E, S, _, clock, rows
from torch import Tensor

from stretto.engine import Engine, Limits, SamplingParams, WallClock, reference
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.engine.reference import Script
from stretto.engine.testing import play, scripts, tiny_lm
from stretto.errors import InputError, LimitError
from stretto.streams import ABSENT, AUDIT, READ, StreamSet


@pytest.fixture
def engine() -> Engine:
    return Engine(LM, CODEC)


def test_cancel_frees_the_line(engine: Engine) -> None:
    first = engine.open(sampling=TALK, clock=clock())
    engine.step()
    first.cancel()
    assert first.finish_reason == "cancelled"
    second = engine.open(sampling=TALK, limits=Limits(max_rows=3), clock=clock())
    engine.step()
    assert second.line == 0 and len(first.rows) == 1
    engine.run([second])
    assert second.line is None and len(second.rows) == 3
    with pytest.raises(InputError, match="session is over"):
        first.send("user", "x")


def test_cancelling_in_catch_up_leaves_others_alone(engine: Engine) -> None:
    script = Script(READ, arrivals=[(0.1 * i, "user", i) for i in range(9)], seed=1,
                    limits=Limits(max_rows=20, quiet_rows=3))  # fmt: skip
    session = engine.open(sampling=TALK, clock=clock())
    session.send("user", list(range(40)))
    engine.step()  # its backlog is being read
    session.cancel()
    assert len(session.rows) == 40 and rows(session)[-1] == [39, S]
    [table] = play(engine, [script])  # on the line that became free
    assert table == reference.run(LM, script)


def test_waiting_for_a_line(engine: Engine) -> None:
    """A session that has no turn yet is neither over nor asked; its deadline counts."""
    engine = Engine(LM, CODEC, max_sessions=1)
    first, second = (engine.open(sampling=DONE, clock=clock()) for _i in range(2))
    late = engine.open(sampling=DONE, limits=Limits(deadline_s=1e-6), clock=WallClock())
    second.send("user", [1])
    second.close()
    late.send("user", [1])
    with pytest.raises(LimitError, match="all 1 sessions that may be active wait for input"):
        engine.run([second])
    assert second.finish_reason is None and late.finish_reason == "deadline" and not late.rows
    assert late.next_event() == 1e-6  # not its arrival, which is due
    engine.run([first, second])
    assert (first.finish_reason, second.finish_reason) == ("quiet", "end")


def test_who_waits_for_a_line_waits_for_the_arrivals_of_its_holder() -> None:
    engine = Engine(LM, CODEC, max_sessions=1)
    first = engine.open(sampling=DONE, clock=WallClock())
    first.feed([(0.3, "user", 1)])
    second = engine.open(sampling=DONE, clock=clock())
    second.close()
    engine.run([second])
    assert (first.finish_reason, second.finish_reason) == ("end", "end")
    assert any(row.time >= 0.3 for row in first.rows)


def test_what_another_thread_sends_is_read_at_once(engine: Engine) -> None:
    session = engine.open(sampling=DONE, limits=Limits(deadline_s=60), clock=WallClock())
    session.feed([(50.0, "user", 1)], closed=False)
    timer = threading.Timer(0.2, session.interrupt, ("user", [2]))
    timer.start()
    engine.run([session])
    assert rows(session)[-2:] == [[2, S], [_, E]] and session.clock.now() < 40


def test_a_failed_step_ends_the_sessions_in_it_only() -> None:
    class Broken(TransformersBackend):
        def forward(self, batch: RowBatch) -> Tensor:
            if batch.tokens.shape[0] == 1:
                raise KeyboardInterrupt
            return super().forward(batch)

    engine = Engine(LM, CODEC, backend=Broken(LM))
    alone = engine.open(sampling=TALK, clock=clock())
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert alone.finish_reason == "error"
    two = [engine.open(sampling=TALK, limits=Limits(max_rows=4), clock=clock()) for _i in range(2)]
    engine.run(two)
    assert [rows(session) for session in two] == [[[_, S]] + [[_, 65]] * 3] * 2


def test_sessions_with_other_streams_and_masks_share_a_step() -> None:
    """Each as if alone, while lines are added, given back and used again."""
    lm = tiny_lm(AUDIT)
    only = [SamplingParams(temperature=3.0, allowed=ids) for ids in ((65, 66), (70, S), (E, 71))]
    scripts = [
        Script(streams, {"answer": [n + 1] * n}, [(0.1 * n, "user", n)], seed=n,
               sampling=dict.fromkeys((s.name for s in streams if s.name != "user"), only[n % 3]),
               limits=Limits(max_rows=4 + 5 * (n % 4), quiet_rows=6))
        for n, streams in enumerate([AUDIT, READ, StreamSet(list(AUDIT)[::-1])] * 3)
    ]  # fmt: skip
    expected = [reference.run(lm, script) for script in scripts]
    for most in (2, 9):
        engine = Engine(lm, CODEC, max_sessions=most)
        assert play(engine, scripts) == expected
        assert play(engine, scripts[::-1]) == expected[::-1]
    for table, n in zip(expected, range(9), strict=True):
        said = table.rows[:, list(table.streams.outputs)]
        assert set(said[said != ABSENT].tolist()) <= {
            *(only[n % 3].allowed or ()),
            S,
        }  # woken by a given S


@pytest.mark.parametrize("limit", [1, 2, 64])
def test_the_table_does_not_depend_on_the_company(limit: int) -> None:
    lm = tiny_lm(AUDIT)
    played = scripts(lm)
    alone = [play(Engine(lm, CODEC), [script])[0] for script in played]
    assert play(Engine(lm, CODEC, max_sessions=limit), played) == alone


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (128, [(1, 1), (1, 128), (1, 1), (1, 72), (2, 1), (1, 128)]),
        (1000, [(1, 1), (2, 200), (3, 1), (3, 1), (3, 1), (3, 1)]),
    ],
)
def test_prompts_neither_pad_nor_stall_others(chunk: int, expected: list) -> None:
    widths = []

    class Counting(TransformersBackend):
        def forward(self, batch: RowBatch) -> Tensor:
            widths.append(batch.tokens.shape)
            return super().forward(batch)

    engine = Engine(LM, CODEC, backend=Counting(LM), chunk=chunk)
    talking = engine.open(sampling=TALK, limits=Limits(max_rows=30), clock=clock())
    engine.step()
    for i in range(2):
        engine.open(prompts={"user": [i] * 200}, sampling=TALK, clock=clock())
    for _i in range(5):
        engine.step()
    assert widths == expected
    assert len(talking.rows) == sum(shape[1] == 1 for shape in widths)


def test_generators_are_the_sessions_own() -> None:
    engine = Engine(LM, CODEC)
    warm = SamplingParams(temperature=2.0)
    made = []
    for seed in (1, 1, 2):
        session = engine.open(sampling=warm, limits=Limits(max_rows=12), seed=seed, clock=clock())
        made.append(session)
    engine.run(made)
    assert rows(made[0]) == rows(made[1]) != rows(made[2])
