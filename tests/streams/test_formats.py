"""JSON lines, Parquet and the drawn table."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bpe_codec import bpe_codec
from hypothesis import given
from hypothesis import strategies as st
from tick_codec import byte_codec

from stretto.errors import ConfigError, InputError
from stretto.streams import ABSENT, AGENT, READ, StreamSet, StreamTable, townhall
from stretto.streams.convert import read_tables, write_tables
from stretto.streams.jsonl import dump_line, parse_line, read_jsonl, write_jsonl
from stretto.streams.render import render_html, render_text
from stretto.streams.ticks import TickWriter

CODEC = bpe_codec()
S, E, _ = CODEC.special.silence, CODEC.special.end, ABSENT
JSON = st.dictionaries(
    st.text(max_size=4), st.none() | st.integers() | st.text(max_size=5), max_size=3
)


@st.composite
def tables(draw: Any) -> StreamTable:
    streams: StreamSet = draw(st.sampled_from([READ, AGENT, townhall(3)]))
    num_rows = draw(st.integers(0, 6))
    cells = st.sampled_from([ABSENT, S, E, 0, 7, 400])
    rows = np.array([[draw(cells) for _ in streams] for _ in range(num_rows)], np.int32).reshape(
        num_rows, len(streams)
    )
    rows[:, [stream.prompt_only for stream in streams]] = ABSENT
    prompts = {stream.name: draw(st.lists(st.integers(0, 511), max_size=3)) for stream in streams}
    return StreamTable(streams, CODEC.special, prompts, rows, draw(JSON), CODEC)


def assert_same(one: StreamTable, other: StreamTable) -> None:
    assert one == other
    assert one.meta == other.meta
    assert len(one) == len(other)


@given(tables())
def test_a_line_holds_a_whole_table(table: StreamTable) -> None:
    line = dump_line(table)
    assert "\n" not in line
    assert_same(parse_line(line, CODEC), table)
    assert_same(StreamTable.from_jsonl(table.to_jsonl()), table)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_files_hold_tables_in_order(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    rng = random.Random(0)
    made = []
    for i in range(600):  # more than one batch of rows
        writer = TickWriter(READ, CODEC, {"answer": CODEC.encode("lag 1:")})
        writer.message("user", CODEC.encode("x🚀\n" * rng.randint(1, 3)))
        made.append(writer.table({"id": f"é{i}", "rows": [1, {"a": None}]}))
    made.append(StreamTable(READ, CODEC.special))
    path = tmp_path / f"tables{suffix}"
    assert write_tables(path, made) == 601
    read = list(read_tables(path, CODEC))
    for one, other in zip(read, made, strict=True):
        assert_same(one, other)
    assert read[0].text("user").startswith("x🚀\n")


def test_no_tables_make_an_empty_file(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "a.jsonl", []) == 0
    assert list(read_jsonl(tmp_path / "a.jsonl")) == []


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    for call in (lambda p: write_tables(p, []), read_tables):
        with pytest.raises(ConfigError, match=r"\.jsonl"):
            call(tmp_path / "tables.csv")


def good_line(**changes: Any) -> str:
    data = json.loads(
        dump_line(StreamTable(READ, CODEC.special, {"user": [1]}, np.array([[1, S]])))
    )
    return json.dumps(data | changes)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a list"),
        (good_line(v=2), "version 2"),
        (good_line(extra=1), "check extra"),
        (good_line(meta=[]), "meta"),
        (good_line(streams=[{"name": "user"}]), "direction"),
        (good_line(streams=5), "stream set"),
        (good_line(special={"silence": 1}), "special"),
        (good_line(prompts={"user": [-1]}), "-1 is not a token id"),
        (good_line(prompts={"nobody": [1]}), "no stream 'nobody'"),
        (good_line(columns={"user": [1, "a"]}), "'a' is not a token id"),
        (good_line(columns={"user": [1, True]}), "True is not a token id"),
        (good_line(columns={"user": [1], "answer": [1, 2]}), "differ in length"),
        (good_line(columns={"user": 5}), "not a list"),
        (good_line(columns={"user": [2**31]}), "not a token id"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{good_line()}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=complaint) as caught:
        list(read_jsonl(path))
    assert f"{path}, line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="give the model it was made with"):
        parse_line(good_line(), byte_codec())


def test_meta_must_be_json() -> None:
    with pytest.raises(InputError, match=r"table\.meta"):
        dump_line(StreamTable(READ, CODEC.special, meta={"a": object()}))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        list(read_jsonl(tmp_path / "b.jsonl"))


def test_parquet_that_holds_no_tables_is_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    with pytest.raises(InputError, match="cannot be read"):
        list(read_tables(path))
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="Parquet"):
        list(read_tables(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match="holds no tables"):
        list(read_tables(path))


def drawn() -> StreamTable:
    writer = TickWriter(READ, CODEC, {"answer": CODEC.encode("lag 0:")})
    writer.message("user", CODEC.encode("two 🦕\nlines"))
    writer.queue("answer", CODEC.encode("A\tnew\nline"))
    writer.drain()
    return writer.table()


def test_lanes_are_drawn_side_by_side() -> None:
    lines = render_text(drawn(), width=60).splitlines()
    assert lines[0] == "answer prompt: lag 0:"
    assert "user →" in lines[1] and "answer ←" in lines[1]
    body = [line.split(" │ ") for line in lines[3:]]
    user, answer = ("".join(line[i].strip() for line in body if len(line) > i) for i in (1, 2))
    assert user.replace(" ", "") == "two🦕⏎lines■"
    assert answer.lstrip("·") == "A⇥new⏎line■"
    numbers = [int(line[0]) for line in body]
    assert numbers[0] == 0 and numbers == sorted(numbers)


def test_lines_keep_to_the_width() -> None:
    from rich.cells import cell_len

    for width in (30, 47, 100):
        assert max(map(cell_len, render_text(drawn(), width=width).splitlines())) <= width
    with pytest.raises(InputError, match="width 20 is too small for 2 streams"):
        render_text(drawn(), width=20)


def test_rows_can_be_cut() -> None:
    text = render_text(drawn(), width=60, max_rows=3)
    assert text.endswith(f"… {len(drawn()) - 3} more rows")
    assert "more rows" not in render_text(drawn(), width=60, max_rows=1000)
    assert drawn().render(width=60, max_rows=3) == text


def test_without_a_codec_ids_are_drawn() -> None:
    table = drawn()
    table.codec = None
    assert f" {table.column('user')[0]} " in render_text(table, width=60)


def test_a_terminal_is_not_commanded() -> None:
    writer = TickWriter(READ, CODEC)
    writer.message("user", CODEC.encode("\x1b[31mred\u202e\x07"))
    text = render_text(writer.table(), width=80)
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert "red" in text


def test_html_is_escaped() -> None:
    writer = TickWriter(READ, CODEC, {"answer": CODEC.encode("<b>")})
    writer.message("user", CODEC.encode("<script>&"))
    page = writer.table()._repr_html_()
    assert page.count("<table") == page.count("</table>") == 1
    assert "<script" not in page and "<b>" not in page
    assert "&amp;" in page and "&lt;" in page
    assert "more rows" in render_html(writer.table(), max_rows=1)
