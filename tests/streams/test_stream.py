"""Streams and stream sets."""

import pytest

from stretto.errors import InputError
from stretto.streams import AGENT, AUDIT, MINDS, READ, SINGLE, Stream, StreamSet, townhall, union
from stretto.streams.sets import stream_set


@pytest.mark.parametrize("name", ["User", "a b", "", "1st"])
def test_names_are_lower_case_identifiers(name: str) -> None:
    with pytest.raises(InputError, match="identifier"):
        Stream(name, "input")


def test_bad_streams_are_refused() -> None:
    with pytest.raises(InputError, match="direction"):
        Stream("a", "sideways")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prompt_only"):
        Stream("a", "output", prompt_only=True)
    with pytest.raises(InputError, match="unique"):
        StreamSet([Stream("a", "input"), Stream("a", "output")])
    with pytest.raises(InputError, match="at least one"):
        StreamSet([])


def test_lookup_by_name_index_and_slice() -> None:
    assert READ.index("answer") == 1
    assert READ["answer"] == READ[1]
    assert READ[:1].names == ("user",)
    assert "answer" in READ and READ[0] in READ and "audit" not in READ
    assert (AUDIT.inputs, AUDIT.outputs) == ((0,), (1, 2))
    with pytest.raises(InputError, match="has user, answer"):
        READ.index("say")


@pytest.mark.parametrize("streams", [SINGLE, READ, AUDIT, AGENT, MINDS, townhall(3)])
def test_plain_data_round_trip(streams: StreamSet) -> None:
    assert StreamSet.from_list(streams.to_list()) == streams
    assert hash(StreamSet.from_list(streams.to_list())) == hash(streams)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(InputError, match="colour"):
        StreamSet.from_list([{"name": "a", "direction": "input", "colour": "red"}])


def test_shipped_sets_by_name() -> None:
    assert stream_set("read") is READ
    assert len(stream_set("townhall:5")) == 6
    for name in ("nothing", "townhall", "townhall:x"):
        with pytest.raises(InputError, match="choose from"):
            stream_set(name)
    with pytest.raises(InputError, match="at least one"):
        townhall(0)


def test_union_keeps_order_and_refuses_contradictions() -> None:
    assert union([READ, AUDIT, AGENT]).names == (
        "user", "answer", "audit", "system", "result", "think", "say", "code",
    )  # fmt: skip
    with pytest.raises(InputError, match="'answer' is defined in two"):
        union([READ, StreamSet([Stream("answer", "input")])])
