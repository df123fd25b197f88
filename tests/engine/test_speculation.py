"""Rows read ahead never change what a session says."""

import gc
import weakref
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedules import CODEC, LMS, SETS, check_equals_reference, script

from stretto.engine import Engine, Grammar, Limits, SamplingParams, Speculation, lookup, reference
from stretto.engine.backends.native import library
from stretto.engine.lookup import Guess
from stretto.engine.reference import Script
from stretto.engine.session import Session
from stretto.engine.testing import MOST_AHEAD, tiny_lm
from stretto.engine.tick import Tick
from stretto.engine.writer import Row
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.models.exits import Exits, plain_head
from stretto.streams import ABSENT, AGENT, AUDIT


def quiet_end(lm: MultiStreamLM) -> MultiStreamLM:
    """A model whose last layers change little, so that an exit before them is often right."""
    for layer in lm.base.get_decoder().layers[1:]:
        layer.self_attn.o_proj.weight.data *= 0.03
        layer.mlp.down_proj.weight.data *= 0.03
    return lm


EARLY = {"audit": quiet_end(tiny_lm(AUDIT)), "agent": quiet_end(tiny_lm(AGENT, seed=3))}
EXITS = {which: Exits.of(lm, {1: plain_head(lm, 1)}, {}) for which, lm in EARLY.items()}


class Oracle:
    """Knows what sessions will say, and lies now and then."""

    def __init__(self, lm: MultiStreamLM, scripts: Sequence[Script], lies: float) -> None:
        self.tables = [reference.run(lm, played).rows for played in scripts]
        self._rng, self._lies = np.random.default_rng(0), lies
        self._most = lm.vocab_size

    def memory(self, session: Session) -> "Oracle":
        return self

    def guess(self, tick: Tick, most: int) -> Guess | None:
        session = tick.session
        table = self.tables[(session.arrival - 1) % len(self.tables)]
        rows = table[len(session.rows) : len(session.rows) + most][:, tick.outputs].astype(np.int64)
        known = (rows != ABSENT).all(1)
        rows = rows[: int(known.argmin()) if not known.all() else len(rows)].copy()
        lie = self._rng.random(rows.shape) < self._lies
        rows[lie] = self._rng.integers(0, self._most + 2, int(lie.sum()))
        return Guess("lookup2", rows) if len(rows) else None


def engine(lm: MultiStreamLM, backend: str, sessions: int, **options: Any) -> Engine:
    speculation = Speculation(max_rows=MOST_AHEAD, **options)
    return Engine(lm, CODEC, backend=backend, max_sessions=sessions, speculation=speculation)


@pytest.mark.parametrize("which", sorted(LMS))
@settings(max_examples=25)
@given(st.data())
def test_any_schedule_equals_the_reference(which: str, data: st.DataObject) -> None:
    lm = LMS[which]
    scripts = data.draw(st.lists(script(SETS[which]), min_size=1, max_size=3))
    oracle = Oracle(lm, scripts, data.draw(st.sampled_from([0.0, 0.05, 0.3])))
    made = engine(
        lm, "transformers", data.draw(st.integers(1, 3)), adaptive=data.draw(st.booleans())
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stretto.engine.speculation.Memory", oracle.memory)
        check_equals_reference(lm, made, scripts)


@pytest.mark.skipif(library.why_not() is not None, reason="the native back end is not here")
@pytest.mark.parametrize("which", sorted(LMS))
@settings(max_examples=20)
@given(st.data())
def test_any_schedule_with_exits_equals_the_reference(which: str, data: st.DataObject) -> None:
    lm = EARLY[which]
    scripts = data.draw(st.lists(script(SETS[which]), min_size=1, max_size=3))
    settings = Speculation(
        max_rows=MOST_AHEAD,
        drafters=data.draw(st.sampled_from([("exit",), ("exit", "lookup", "silence")])),
        adaptive=data.draw(st.booleans()),
    )
    made = Engine(
        lm, CODEC, backend="native", max_sessions=data.draw(st.integers(1, 3)),
        speculation=settings, exits=EXITS[which],
    )  # fmt: skip
    check_equals_reference(lm, made, scripts)


@pytest.mark.skipif(library.why_not() is not None, reason="the native back end is not here")
@pytest.mark.parametrize("warm", [False, True])
def test_exits_that_are_right_save_passes(warm: bool) -> None:
    lm, params = EARLY["audit"], SamplingParams(temperature=0.3 if warm else 0.0)
    sampling = {lm.streams[i].name: params for i in lm.streams.outputs}
    played = Script(SETS["audit"][0], {"user": [66]}, [], True, [], sampling=sampling,
                    limits=Limits(max_rows=60, quiet_rows=60), seed=1)  # fmt: skip
    made = Engine(
        lm, CODEC, backend="native", exits=EXITS["audit"],
        speculation=Speculation(drafters=("exit",), max_rows=3, adaptive=False),
    )  # fmt: skip
    check_equals_reference(lm, made, [played])
    count = made.stats().drafted["exit1"]
    assert count.true > 10 and made.stats().steps < 63 - count.true
    assert count.rows >= count.tested >= count.true


@pytest.mark.skipif(library.why_not() is not None, reason="the native back end is not here")
def test_a_draft_that_a_grammar_forbids_is_paid_for_by_exits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of plain steps and of other drafts must not suffer for it."""
    pytest.importorskip("llguidance")
    lm = EARLY["audit"]
    made = Engine(
        lm, CODEC, backend="native", exits=EXITS["audit"],
        speculation=Speculation(drafters=("exit",), max_rows=3, adaptive=False),
    )  # fmt: skip
    calls: Counter[str] = Counter()

    def counted(of: Any, name: str, what: str) -> None:
        act = getattr(of, name)

        def counting(*args: Any) -> Any:
            calls[what] += 1
            return act(*args)

        monkeypatch.setattr(of, name, counting)

    control: Any = made._passes._speculator._control  # type: ignore[union-attr]
    for of, name, what in (
        (made._backend, "draft", "drafts"), (made._backend, "finish", "used"),
        (control.plain, "measured", "plain"), (control.exits[1], "measured", "exit"),
        (control.purses[False], "tried", "paid by known"),
        (control.purses[True], "tried", "paid by exits"),
    ):  # fmt: skip
        counted(of, name, what)
    forced = SamplingParams(grammar=Grammar.regex("[xyz]{30}"))
    sampling = {lm.streams[i].name: forced for i in lm.streams.outputs}
    session = made.open(prompts={"user": [66]}, sampling=sampling, limits=Limits(max_rows=30))
    session.close()
    made.run([session])
    assert calls["drafts"] > calls["used"] + 5, "nothing was forbidden: this would show nothing"
    assert calls["exit"] == calls["drafts"]
    assert calls["plain"] == made.stats().steps - calls["drafts"]
    assert calls["paid by known"] == 0 < calls["paid by exits"]


def test_what_exits_cannot_do_is_refused() -> None:
    lm = EARLY["audit"]
    for options, words in (
        ({"speculation": Speculation(exit_layers=(7,))}, "no exit after layer 7"),
        ({"exit_layer": 1, "speculation": Speculation()}, "no layers to check drafts"),
        ({"exit_layer": 7}, "the model's exits: 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            Engine(lm, CODEC, backend="native", exits=EXITS["audit"], **options)
    with pytest.raises(ConfigError, match="offers no exits"):
        Engine(lm, CODEC, backend="transformers", exits=EXITS["audit"], exit_layer=1)
    # Where nobody names an exit, the other drafters do without.
    Engine(lm, CODEC, backend="transformers", exits=EXITS["audit"], speculation=Speculation())


def passes_and_rows(made: Engine, lm: MultiStreamLM, lies: float) -> tuple[int, int]:
    played = Script(SETS["audit"][0], {"user": [66]}, [], True, [], limits=Limits(max_rows=40))
    oracle = Oracle(lm, [played], lies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stretto.engine.speculation.Memory", oracle.memory)
        check_equals_reference(lm, made, [played])
    return made.stats().steps, len(oracle.tables[0])


@pytest.mark.parametrize("backend", ["transformers", "native", "prepacked", "cpu"])
def test_true_drafts_save_passes(backend: str) -> None:
    lm = LMS["audit"]
    try:
        made = engine(lm, backend, 1, adaptive=False)
    except ConfigError as error:
        pytest.skip(str(error))
    steps, rows = passes_and_rows(made, lm, 0.0)
    assert rows == 40 and steps <= 2 + -(-rows // (MOST_AHEAD + 1))
    [count] = made.stats().drafted.values()
    assert count.true == count.rows > 30 and count.tested == count.true


def test_false_drafts_cost_no_row() -> None:
    made = engine(LMS["audit"], "transformers", 1, adaptive=False)
    steps, rows = passes_and_rows(made, LMS["audit"], 1.0)
    [count] = made.stats().drafted.values()
    assert steps == rows and count.true == 0 and count.tested == count.passes


def test_nothing_is_left_in_the_cache() -> None:
    lm = LMS["audit"]
    made = engine(lm, "transformers", 2, adaptive=False)
    for lies in (0.2, 0.5):
        passes_and_rows(made, lm, lies)
    made.forget_prefixes()
    assert made.stats().cached_bytes == 0


def test_a_full_cache_leaves_no_room_for_drafts() -> None:
    lm = LMS["audit"]
    plain = Engine(lm, CODEC, backend="transformers")
    made = Engine(
        lm, CODEC, backend="transformers", max_sessions=1, prefix_cache=False,
        max_cache_bytes=160 * plain._backend.cell_bytes,
        speculation=Speculation(max_rows=MOST_AHEAD, adaptive=False),
    )  # fmt: skip
    session = made.open(prompts={"user": [66] * 20}, limits=Limits(max_rows=200, quiet_rows=200))
    session.close()
    made.run([session])
    other = plain.open(prompts={"user": [66] * 20}, limits=Limits(max_rows=200, quiet_rows=200))
    other.close()
    plain.run([other])
    length = len(session.rows)
    assert session.finish_reason == "evicted" and length > 20
    assert np.array_equal(session.table.rows, other.table.rows[:length])


def test_what_is_sent_lies_behind_rows_that_were_written() -> None:
    """A caller who sends between two steps is heard in the next row, and a replay agrees."""
    lm = LMS["audit"]
    made = engine(lm, "transformers", 1, adaptive=False)
    session = made.open(prompts={"user": [66]}, limits=Limits(max_rows=60, quiet_rows=60))
    for _ in range(4):
        made.step()
        before = len(session.rows)
        session.interrupt("user", [70, 71])
        made.step()
        assert session.rows[before].tokens["user"] == 70
    session.cancel()
    assert made.replay(session.table) == session.table


@pytest.mark.parametrize("backend", ["transformers", "native"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_sessions_that_are_over_are_not_kept(backend: str, adaptive: bool) -> None:
    lm = EARLY["audit"]
    if backend == "native" and (why := library.why_not()):
        pytest.skip(why)
    made = Engine(lm, CODEC, backend=backend, exits=EXITS["audit"],
                  speculation=Speculation(adaptive=adaptive))  # fmt: skip
    session = made.open(prompts={"user": [66]}, limits=Limits(max_rows=40, quiet_rows=40))
    session.close()
    made.run([session])
    assert adaptive or made.stats().drafted, "nothing was drafted: this would show nothing"
    is_there = weakref.ref(session)
    del session
    gc.collect()
    assert is_there() is None


def test_sessions_may_refuse() -> None:
    made = engine(LMS["audit"], "transformers", 1, adaptive=False)
    session = made.open(prompts={"user": [66]}, limits=Limits(max_rows=30), speculate=False)
    session.close()
    made.run([session])
    assert not made.stats().drafted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drafters": ("guess",)}, "drafter 'guess': choose from"),
        ({"max_rows": 0}, "max_rows is 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Speculation(**options)


def asking(session: Session, *names: str) -> Any:
    """As much of a tick as a memory looks at."""
    outputs = np.array([session.streams.index(name) for name in names])
    return SimpleNamespace(session=session, outputs=outputs)


def test_lookup_goes_on_with_its_own_copy() -> None:
    """A run that repeats every two tokens is continued beyond what was written."""
    made = engine(LMS["audit"], "transformers", 1)
    session = made.open(prompts={"answer": [10, 11, 10, 11, 10]})
    tick = asking(session, "answer")
    guess = lookup.Memory(session).guess(tick, 5)
    assert guess is not None and guess.kind == "lookup3"
    assert guess.rows[:, 0].tolist() == [11, 10, 11, 10, 11]


def test_silent_streams_stay_so_and_others_are_looked_up() -> None:
    made = engine(LMS["audit"], "transformers", 1)
    lm, names = LMS["audit"], LMS["audit"].streams.names
    outputs = [names[i] for i in lm.streams.outputs]
    session = made.open(prompts={"user": [1, 2, 3, 4, 5], outputs[0]: [9, 2, 3]})
    quiet = lm.special.silence
    session.rows.append(Row(0, {outputs[0]: 4, outputs[1]: quiet}, {}, 0.0))
    tick = asking(session, *outputs[:2])
    assert lookup.Memory(session).guess(tick, 3) is None, "one silence is given"
    session.rows.append(Row(1, {outputs[1]: quiet}, {}, 0.0))
    guess = lookup.Memory(session).guess(tick, 3)
    assert guess is not None and guess.kind == "lookup3"
    assert guess.rows.tolist() == [[5, lm.special.silence]]
