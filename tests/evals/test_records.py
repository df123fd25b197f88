import pytest

from stretto.errors import InputError
from stretto.evals.records import Record, arrival_end, parse_rate


def make(**changes: object) -> Record:
    fields: dict[str, object] = {
        "system": "read", "task": "gsm8k", "item": "a", "rate": "20", "lag": "1",
        "correct": True, "answered": True, "predicted": "4", "text": "Answer: 4", "finish": "end",
        "input_tokens": 10, "output_tokens": 5, "input_end_row": 10, "first_row": 6,
        "last_row": 14, "input_end_s": 0.45, "first_s": 0.3, "last_s": 0.7, "total_s": 0.8,
        "rows": 16,
    }  # fmt: skip
    return Record(**(fields | changes))  # type: ignore[arg-type]


def test_ten_tokens_at_twenty_a_second_take_nine_gaps() -> None:
    assert arrival_end(10, "20") == pytest.approx(0.45)
    assert arrival_end(10, "instant") == 0
    assert arrival_end(1, "5") == 0


@pytest.mark.parametrize("text", ["", "0", "-5", "fast", "nan", "inf"])
def test_bad_rates_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="instant"):
        parse_rate(text)


def test_delay_counts_from_the_end_of_input() -> None:
    record = make()
    assert record.delay_s == pytest.approx(0.25)
    assert record.delay_rows == 4
    assert record.end_s == pytest.approx(0.7)
    assert record.tokens_per_s == pytest.approx(5 / 0.7)


def test_a_first_token_before_the_end_of_input_is_at_zero() -> None:
    assert (make().ttft_s, make().ttft_rows) == (0, 0)
    assert make(first_row=11, first_s=0.5).ttft_rows == 1
    assert make(first_row=11, first_s=0.5).ttft_s == pytest.approx(0.05)


def test_an_answer_that_never_came_took_the_whole_session() -> None:
    mute = make(first_row=None, last_row=None, first_s=None, last_s=None)
    assert mute.delay_s == pytest.approx(0.8 - 0.45)
    assert mute.ttft_rows == mute.delay_rows == 6


def test_a_system_that_waits_starts_when_all_is_there() -> None:
    waiting = make(rate="any", input_end_s=0.0, first_s=0.1, last_s=0.5, total_s=0.6)
    slow, instant = waiting.placed("5"), waiting.placed("instant")
    assert slow.input_end_s == pytest.approx(9 / 5)
    assert slow.delay_s == pytest.approx(0.5) == instant.delay_s
    assert slow.end_s == pytest.approx(2.3)
    assert instant.end_s == pytest.approx(0.5)


def test_a_reading_system_stays_at_its_rate() -> None:
    assert make().placed("5") == make()


def test_round_trip_and_a_missing_field() -> None:
    data = make().to_dict()
    assert Record.from_dict({**data, "v": 1, "time": 0.0, "type": "item"}) == make()
    del data["lag"]
    with pytest.raises(InputError, match="lag"):
        Record.from_dict(data)
