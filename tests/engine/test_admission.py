"""Who may come in, who waits, who has to go, and what they are told."""

import asyncio
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steered import CODEC, DONE, HUSH, LM, TALK, clock, rows
from test_schedules import LMS, SETS, script

from stretto.engine import Engine, Limits, reference
from stretto.engine.admission import _left_in_group, default_bytes
from stretto.engine.backends import open_backend
from stretto.engine.session import Session
from stretto.engine.testing import play
from stretto.errors import ConfigError, InputError, LimitError

CELL = open_backend("transformers", LM).cell_bytes


def engine_of(cells: int, **options: object) -> Engine:
    room = cells * CELL + CELL // 2
    return Engine(LM, CODEC, backend="transformers", max_cache_bytes=room, **options)  # type: ignore[arg-type]


def burst(session: Session, tokens: int) -> Session:
    session.send("user", [t % 200 for t in range(tokens)])
    return session


def test_a_session_waits_until_its_prompt_and_a_reserve_fit() -> None:
    engine = engine_of(512, prefix_cache=False)
    first, second = (engine.open(prompts={"user": [i] * 150}, sampling=DONE, clock=clock())
                     for i in range(2))  # fmt: skip
    engine.step()
    assert (engine.stats().active, engine.stats().waiting) == (1, 1)
    first.cancel()
    engine.step()
    assert second.line is not None and engine.stats().waiting == 0
    small = [engine.open(prompts={"user": [i] * 30}, limits=Limits(max_rows=1), clock=clock())
             for i in range(4)]  # fmt: skip
    engine.step()
    # 406 -> 416 cells for the second one, 32 for each of these: no reserve beyond what they can use
    assert [session.line is not None for session in small] == [True] * 3 + [False]


def test_nobody_overtakes_a_large_session() -> None:
    engine = engine_of(512, prefix_cache=False)
    held = engine.open(prompts={"user": [1] * 150}, sampling=DONE, clock=clock())
    engine.step()
    large = engine.open(prompts={"user": [2] * 150}, sampling=DONE, clock=clock())
    small = engine.open(limits=Limits(max_rows=1), clock=clock())
    engine.step()
    assert large.line is None and small.line is None
    held.cancel()
    engine.step()
    assert large.line is not None and small.finish_reason == "max_rows"


@pytest.mark.parametrize("priorities", [(0, 0), (1, 0), (0, 1), (-1, 0)])
def test_the_youngest_of_the_lowest_priority_is_evicted(priorities: tuple[int, int]) -> None:
    engine = engine_of(640)
    old, young = (engine.open(sampling=HUSH, limits=Limits(max_rows=999), clock=clock(),
                              priority=p) for p in priorities)  # fmt: skip
    engine.step()
    burst(old, 400)
    burst(young, 400)
    for _i in range(9):
        engine.step()
    gone, stays = (old, young) if priorities[0] < priorities[1] else (young, old)
    assert gone.finish_reason == "evicted" and stays.finish_reason is None
    assert isinstance(gone.error, LimitError) and "max_cache_bytes" in str(gone.error)
    assert gone.table.meta["finish_reason"] == "evicted" and len(gone.rows) in (1, 2)
    assert len(list(gone.iter())) == len(gone.rows)  # ends like any other
    assert len(stays.rows) > 400 and engine.stats().evictions == 1
    with pytest.raises(InputError, match=r"session is over \(evicted\)"):
        gone.send("user", [1])


def test_who_outgrows_the_cache_takes_nobody_along() -> None:
    engine = engine_of(600)
    young_limits = Limits(max_rows=40)
    huge, young = (engine.open(sampling=TALK, limits=limits, clock=clock())
                   for limits in (Limits(max_rows=2000), young_limits))  # fmt: skip
    burst(huge, 1000)
    engine.run([huge, young])
    assert (huge.finish_reason, young.finish_reason) == ("evicted", "max_rows")
    assert "it outgrew the cache of 576 cells" in str(huge.error)


def test_a_session_that_never_fits_is_refused() -> None:
    engine = engine_of(128)
    with pytest.raises(LimitError, match="take 131 cells, the cache holds 128: shorten"):
        engine.open(prompts={"user": [1] * 130})
    session = engine.open(prompts={"user": [1] * 127}, sampling=DONE, clock=clock())
    engine.run([session])
    assert session.finish_reason == "evicted" or session.rows


def test_higher_priorities_begin_first_and_equal_ones_in_order() -> None:
    engine = Engine(LM, CODEC, max_sessions=1)
    held = engine.open(sampling=DONE, clock=clock())
    engine.step()
    waiting = [engine.open(sampling=DONE, limits=Limits(max_rows=1), clock=clock(), priority=p)
               for p in (0, 5, 0, 5, -1)]  # fmt: skip
    held.cancel()
    begun = [session for _i in range(10) for session, _ in engine.step()]
    assert [waiting.index(s) for s in dict.fromkeys(begun)] == [1, 3, 0, 2, 4]


def test_backpressure_of_the_queue() -> None:
    engine = Engine(LM, CODEC, max_sessions=2, max_waiting=1)
    made = [engine.open(sampling=DONE, clock=clock()) for _i in range(3)]
    used = clock()
    with pytest.raises(LimitError, match="3 sessions wait for their turn already"):
        engine.open(clock=used)
    engine.step()
    with pytest.raises(LimitError, match="1 sessions wait"):
        engine.open(clock=used)
    made[2].cancel()  # leaves the queue at once
    engine.open(clock=used)


def test_backpressure_of_inputs() -> None:
    session = Engine(LM, CODEC).open(
        sampling=HUSH, limits=Limits(max_pending_tokens=5), clock=clock()
    )
    session.send("user", [1, 2, 3], rate=0.001)
    with pytest.raises(LimitError, match="3 tokens wait to be read and 3 more would pass"):
        session.send("user", [4, 5], end=True)
    with pytest.raises(LimitError):
        session.feed([(9.0, "user", 1)] * 3)
    session.interrupt("user", [1, 2, 3, 4], end=False)  # drops two first
    assert len(session.table.meta["sends"]) == 2
    with pytest.raises(ConfigError, match="max_pending_tokens is 0"):
        Limits(max_pending_tokens=0)


def test_what_keeps_a_waiting_session_from_beginning_is_named() -> None:
    engine = engine_of(512)
    engine.open(prompts={"user": [1] * 200}, sampling=DONE, clock=clock())
    second = engine.open(prompts={"user": [2] * 200}, sampling=DONE, clock=clock())
    with pytest.raises(LimitError, match=r"all 1 sessions .* more max_cache_bytes"):
        engine.run([second])


def test_an_evicted_reader_gets_a_clear_end() -> None:
    async def main() -> None:
        engine = engine_of(600)
        options = {"sampling": TALK, "limits": Limits(max_rows=2000)}
        async with engine.open(**options) as session, engine.open(sampling=DONE) as other:
            burst(session, 1000)
            seen = [row async for row in session]
            assert session.finish_reason == "evicted" and len(seen) == len(session.rows)
            other.send("user", "a")
            other.close()
            assert [row async for row in other] and other.finish_reason == "end"

    asyncio.run(asyncio.wait_for(main(), 60))


@settings(max_examples=20)
@given(st.data())
def test_memory_is_kept_and_who_is_not_evicted_sees_nothing(data: st.DataObject) -> None:
    lm = LMS["audit"]
    cell = open_backend("transformers", lm).cell_bytes
    scripts = data.draw(st.lists(script(SETS["audit"]), min_size=2, max_size=5))
    cells = data.draw(st.integers(64, 160))
    engine = Engine(lm, CODEC, max_cache_bytes=cells * cell, chunk=data.draw(st.integers(2, 40)))
    step = engine.step

    def watched() -> list:
        took_part = step()
        assert engine.stats().cached_bytes <= cells * cell
        return took_part

    engine.step = watched  # type: ignore[method-assign]
    for played, table in zip(scripts, play(engine, scripts), strict=True):
        expected = reference.run(lm, played)
        if table.meta["finish_reason"] == "evicted":
            assert rows_begin(expected.rows.tolist(), table.rows.tolist())
        else:
            assert table == expected


def rows_begin(whole: list, part: list) -> bool:
    return whole[: len(part)] == part


def test_defaults() -> None:
    assert 2**20 < default_bytes(torch.device("cpu")) < 2**44
    for name, value in (("max_cache_bytes", 0), ("max_waiting", -1)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            Engine(LM, CODEC, **{name: value})
    engine = Engine(LM, CODEC)
    session = engine.open(sampling=TALK, limits=Limits(max_rows=3), clock=clock())
    engine.run([session])
    assert rows(session)[-1] == [-1, 65] and engine.stats().steps == 2


def test_pages_of_files_do_not_fill_a_container(tmp_path: Path) -> None:
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "990"),
        ("memory.stat", "anon 300\ninactive_file 500\nactive_file 190\nslab 7"),
    ):
        assert _left_in_group(tmp_path, 5) == 5
        (tmp_path / name).write_text(text)
    assert _left_in_group(tmp_path, 5) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_group(tmp_path, 5) == 5
