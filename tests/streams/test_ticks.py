"""Laying out ticks, and the validator on good and on broken tables."""

import numpy as np
import pytest
from tick_codec import byte_codec

from stretto.errors import InputError
from stretto.streams import ABSENT, AGENT, READ, SINGLE, StreamTable
from stretto.streams.ticks import TickWriter, validate

CODEC = byte_codec()
S, E, _ = CODEC.special.silence, CODEC.special.end, ABSENT


def read_table(rows: list[list[int]], prompts: dict[str, list[int]] | None = None) -> StreamTable:
    return StreamTable(READ, CODEC.special, prompts=prompts or {}, rows=np.array(rows))


def test_an_output_answers_what_it_has_read_from_the_next_tick_on() -> None:
    writer = TickWriter(READ, CODEC)
    writer.message("user", [5, 6])
    writer.queue("answer", [7, 8])
    writer.drain()
    expected = [[5, S], [6, S], [E, S], [_, 7], [_, 8], [_, E]]
    assert writer.table().rows.tolist() == expected
    validate(writer.table())


def test_an_input_wakes_a_resting_output_with_a_given_silence() -> None:
    writer = TickWriter(READ, CODEC)
    writer.tick({"user": [5]})
    writer.queue("answer", [7])
    writer.drain()
    assert writer.is_resting("answer")
    writer.tick({"user": [6]})
    writer.tick({"user": [E]})
    assert writer.table().rows[-2:].tolist() == [[6, S], [E, S]]
    validate(writer.table())


def test_a_burst_has_outputs_in_its_last_row_only() -> None:
    writer = TickWriter(AGENT, CODEC, {"system": [1, 2]})
    writer.tick({"user": [5, 6, 7], "result": [8]})
    rows = writer.table().rows
    assert rows[:, AGENT.index("user")].tolist() == [5, 6, 7]
    assert rows[:, AGENT.index("result")].tolist() == [8, _, _]
    assert rows[:, AGENT.index("say")].tolist() == [_, _, S]
    validate(writer.table())


def test_a_prompted_output_speaks_in_the_first_tick() -> None:
    writer = TickWriter(SINGLE, CODEC, {"text": [1]})
    writer.queue("text", [2])
    writer.drain()
    assert writer.table().rows.tolist() == [[2], [E]]
    validate(writer.table())


def test_a_prompt_that_closes_with_end_leaves_its_output_at_rest() -> None:
    writer = TickWriter(READ, CODEC, {"answer": [3, E]})
    assert writer.is_resting("answer") and not writer.has_live()
    writer.tick({"user": [5]})
    assert writer.table().rows.tolist() == [[5, S]]
    validate(writer.table())
    with pytest.raises(InputError, match="after a rest must be the given silence"):
        validate(read_table([[5, 7]], {"answer": [3, E]}))


def test_pauses_and_bursts_of_a_message() -> None:
    writer = TickWriter(READ, CODEC)
    writer.message("user", [5, 6, 7], sizes=[2, 0, 2])
    assert writer.table().rows.tolist() == [[5, _], [6, S], [_, S], [7, _], [E, S]]
    with pytest.raises(InputError, match="bursts of 3"):
        writer.message("user", [5], sizes=[3])


def test_what_cannot_be_written_is_refused() -> None:
    writer = TickWriter(AGENT, CODEC)
    for name in ("say", "system"):
        with pytest.raises(InputError, match="takes no input"):
            writer.tick({name: [1]})
    with pytest.raises(InputError, match="is an input"):
        writer.queue("user", [1])
    for name in ("think", "say", "code"):
        writer.queue(name, [])
    writer.drain()
    with pytest.raises(InputError, match="every output rests"):
        writer.tick()
    writer.queue("say", [1])
    with pytest.raises(InputError, match="'say' rests"):
        writer.drain("say")


def test_a_copy_is_independent() -> None:
    writer = TickWriter(READ, CODEC, {"user": [1]})
    writer.queue("answer", [7])
    other = writer.copy()
    other.drain()
    assert len(writer.table()) == 0
    assert other.num_cells() == 1 + 3


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([[5, 7]], "row 0, stream 'answer': its first cell at the start"),
        ([[_, S], [5, E], [6, 7]], "row 2, stream 'answer': its first cell after a rest"),
        ([[_, S], [_, E], [_, 7]], "row 2, stream 'answer': it rests after `end`"),
        ([[5, S], [6, _]], "last tick has no output cell"),
        ([[5, S], [S, S]], "row 1, stream 'user': an input is absent, never silent"),
        ([[5, S], [_, _], [5, 7]], "row 1: no cell at all"),
    ],
)
def test_broken_tables_are_refused(rows: list[list[int]], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        validate(read_table(rows))


def agent_row(**cells: int) -> list[int]:
    return [cells.get(stream.name, ABSENT) for stream in AGENT]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([agent_row(user=5, think=S), agent_row(user=6, think=S, say=S, code=S)], "live output"),
        ([agent_row(think=S, say=S, code=S), agent_row(think=5, say=S)], "stream 'code'"),
        (
            [agent_row(user=5), agent_row(result=6, think=S, say=S, code=S)],
            "no input stream fills every row",
        ),
    ],
)
def test_broken_tables_of_many_streams_are_refused(rows: list[list[int]], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        validate(StreamTable(AGENT, CODEC.special, rows=np.array(rows)))


def test_a_prompt_only_stream_that_turns_live_is_refused() -> None:
    table = StreamTable(AGENT, CODEC.special)
    table.append_row({"system": 1, "think": S, "say": S, "code": S})
    with pytest.raises(InputError, match="prompt_only"):
        validate(table)
