"""Whatever callers do and when, the engine's tables are the slow twin's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.engine import Engine, Limits, SamplingParams, reference
from stretto.engine.reference import Event, Script
from stretto.engine.testing import play, tiny_codec, tiny_lm
from stretto.models import MultiStreamLM
from stretto.streams import AGENT, AUDIT, READ, StreamSet
from stretto.streams.ticks import validate

CODEC = tiny_codec()
S, E = CODEC.special.silence, CODEC.special.end
LMS = {"audit": tiny_lm(AUDIT), "agent": tiny_lm(AGENT, mask_rule="strict", seed=3)}
SETS = {
    "audit": [AUDIT, READ, StreamSet(list(AUDIT)[::-1])],
    "agent": [AGENT, StreamSet([AGENT[i] for i in (5, 1, 3)])],
}
STOPS = tuple(range(0, 256, 5))
SAMPLING = [
    SamplingParams(stop_ids=STOPS),
    SamplingParams(temperature=1.0, stop_ids=STOPS, silence_bias=3.0),
    SamplingParams(temperature=1.5, top_k=30, min_p=0.01, repetition_penalty=1.6, stop_ids=STOPS),
    SamplingParams(temperature=2.0, allowed=(65, 66, S, E)),
    SamplingParams(allowed=(E,)),
    SamplingParams(banned=tuple(range(40)), silence=False),
]
TOKENS = st.lists(st.sampled_from([1, 7, 70, 255, E]), max_size=20)
RATES = st.sampled_from([None, 3.0, 25.0, 100.0])


@st.composite
def events(draw: st.DrawFn, inputs: list[str], closed: bool) -> list[Event]:
    """Sends, interrupts, closings and cancellations; nothing is sent on a closed stream."""
    made, is_closed = [], dict.fromkeys(inputs, closed)
    for tick in sorted(draw(st.lists(st.integers(0, 25), max_size=6))):
        name = draw(st.sampled_from(inputs))
        kinds = ["interrupt", "close", "close all", "cancel"]
        kind = draw(st.sampled_from(kinds if is_closed[name] else ["send", "send", *kinds]))
        if kind in ("send", "interrupt"):
            rate = draw(RATES) if kind == "send" else None
            made.append(Event(tick, kind, name, draw(TOKENS), rate, draw(st.booleans())))
            is_closed[name] = False
        elif kind == "cancel":
            made.append(Event(tick, kind))
        else:
            made.append(Event(tick, "close", name if kind == "close" else ""))
            is_closed |= dict.fromkeys([name] if kind == "close" else inputs, True)
    return made


@st.composite
def script(draw: st.DrawFn, sets: list[StreamSet]) -> Script:
    streams = draw(st.sampled_from(sets))
    inputs = [streams[i].name for i in streams.inputs if not streams[i].prompt_only]
    opening = st.lists(st.sampled_from([1, 66, 200]), max_size=4)
    prompts = {s.name: ids for s in streams if (ids := draw(opening))}
    for name in prompts:
        if draw(st.integers(0, 4)) == 0:
            prompts[name].append(E)
    times = sorted(draw(st.lists(st.sampled_from([0.0, 0.05, 0.051, 0.4, 2.0]), max_size=10)))
    arrivals = [(time, draw(st.sampled_from(inputs)), i % 4 + 60) for i, time in enumerate(times)]
    closed = draw(st.booleans())
    return Script(
        streams, prompts, arrivals, closed, draw(events(inputs, closed)),
        sampling={streams[i].name: draw(st.sampled_from(SAMPLING)) for i in streams.outputs},
        limits=Limits(
            max_rows=draw(st.sampled_from([3, 24, 24])),
            quiet_rows=draw(st.sampled_from([1, 4])),
            deadline_s=draw(st.sampled_from([None, None, 0.3, 1.9])),
            max_message_tokens=draw(st.sampled_from([None, 2, 6])),
        ),
        seed=draw(st.integers(0, 9)),
        latency=draw(st.sampled_from([_steady, _growing])),
    )  # fmt: skip


def _steady(cells: int, cached: int) -> float:
    return 0.03


def _growing(cells: int, cached: int) -> float:
    return 0.01 * cells + 0.001 * cached


def check_equals_reference(lm: MultiStreamLM, engine: Engine, scripts: list[Script]) -> None:
    """Tables, and why they end, are those of the slow twin."""
    for played, table in zip(scripts, play(engine, scripts), strict=True):
        expected = reference.run(lm, played)
        assert table == expected
        assert table.meta["finish_reason"] == expected.meta["finish_reason"]
        validate(table)


@pytest.mark.parametrize("which", sorted(LMS))
@settings(max_examples=25)
@given(st.data())
def test_any_schedule_equals_the_reference(which: str, data: st.DataObject) -> None:
    lm = LMS[which]
    scripts = data.draw(st.lists(script(SETS[which]), min_size=1, max_size=3))
    engine = Engine(lm, CODEC, max_sessions=data.draw(st.integers(1, 3)))
    check_equals_reference(lm, engine, scripts)
