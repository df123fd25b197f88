"""Tables: columns, messages, and the label rules of their cells."""

import numpy as np
import pytest
from tick_codec import byte_codec

from stretto.errors import InputError
from stretto.streams import ABSENT, AGENT, AUDIT, IGNORE, READ, StreamTable, text_table
from stretto.streams.ticks import TickWriter

CODEC = byte_codec()
S, E, _ = CODEC.special.silence, CODEC.special.end, ABSENT


def table_of(rows: list[list[int]], **fields: object) -> StreamTable:
    return StreamTable(READ, CODEC.special, rows=np.array(rows), **fields)  # type: ignore[arg-type]


def test_cells_are_in_reading_order() -> None:
    table = table_of([[5, S], [6, _], [E, 7]], prompts={"answer": [1, 2], "user": [3]})
    cells = table.cells()
    assert cells.tokens.tolist() == [3, 1, 2, 5, S, 6, E, 7]  # inputs' prompts come first
    assert cells.streams.tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert cells.rows.tolist() == [0, 1, 2, 3, 3, 4, 5, 5]
    assert all(part.dtype == np.int32 for part in vars(cells).values())


def test_a_label_is_the_next_token_of_the_same_output() -> None:
    table = table_of([[5, S], [6, _], [7, 8], [_, 9], [_, E]])
    labels = table.cells().labels.reshape(-1).tolist()
    # cells: 5 S | 6 | 7 8 | 9 | E; the catch-up row is skipped, inputs and `end` have no label
    assert labels == [IGNORE, 8, IGNORE, IGNORE, 9, E, IGNORE]


def test_only_the_last_prompt_token_predicts() -> None:
    table = table_of([[5, 7], [_, E]], prompts={"answer": [1, 2], "user": [3]})
    assert table.cells().labels.tolist() == [IGNORE, IGNORE, 7, IGNORE, E, IGNORE]


def test_nothing_predicts_the_given_silence_after_end() -> None:
    table = table_of([[5, S], [_, 7], [_, E], [6, S], [_, 8], [_, E]])
    cells = table.cells()
    columns = (cells.tokens.tolist(), cells.rows.tolist(), cells.labels.tolist())
    labels = {(token, row): label for token, row, label in zip(*columns, strict=True)}
    assert labels[E, 2] == IGNORE
    assert labels[S, 3] == 8
    assert labels[E, 5] == IGNORE


def test_an_untrained_stream_has_no_labels() -> None:
    rows = np.array([[5, S, S], [_, 7, S], [_, E, 8], [_, _, E]])
    table = StreamTable(AUDIT, CODEC.special, rows=rows, meta={"untrained": ["answer"]})
    cells = table.cells()
    assert (cells.labels[cells.streams == 1] == IGNORE).all()
    assert cells.labels[cells.streams == 2].tolist() == [S, 8, E, IGNORE]


def test_an_empty_table_has_no_cells() -> None:
    assert len(StreamTable(READ, CODEC.special).cells()) == 0
    assert StreamTable(READ, CODEC.special).rows.shape == (0, 2)


def test_columns_and_messages() -> None:
    table = text_table(READ, CODEC, {"user": ["hello", "you"], "answer": ["hi"]})
    assert table.text("user") == "helloyou"
    assert [CODEC.decode(ids) for ids in table.messages("user")] == ["hello", "you"]
    assert [CODEC.decode(ids) for ids in table.messages("answer")] == ["hi"]
    table.prompts["answer"] = CODEC.encode("lag 1:")
    assert table.text("answer", prompt=True) == "lag 1:hi"
    table.codec = None
    with pytest.raises(InputError, match="no codec"):
        table.text("user")


def test_rows_are_appended_by_name_or_in_order() -> None:
    table = StreamTable(READ, CODEC.special)
    table.append_row({"answer": 3})
    table.append_row([1, 2])
    assert table.rows.tolist() == [[_, 3], [1, 2]]
    with pytest.raises(InputError, match="no stream 'say'"):
        table.append_row({"say": 1})


def test_tables_that_contradict_their_streams_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 3\), expected \(R, 2\)"):
        table_of([[1, 2, 3]])
    with pytest.raises(InputError, match="no stream 'say'"):
        table_of([[1, 2]], prompts={"say": [1]})
    with pytest.raises(InputError, match="prompt_only"):
        StreamTable(AGENT, CODEC.special, rows=np.zeros((1, 6)))


def test_equality_ignores_codec_and_meta_but_not_tokens() -> None:
    writer = TickWriter(READ, CODEC)
    writer.message("user", [5, 6])
    one, two = writer.table({"id": "a"}), writer.table()
    two.codec = None
    assert one == two
    two.rows[0, 0] = 9
    assert one != two
    assert one != table_of(one.rows.tolist(), prompts={"user": [1]})
