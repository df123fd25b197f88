import pytest
from scripted import letter_codec, read_table

from stretto.evals.wakeup import wake_ticks

CODEC = letter_codec()
STEADY = [("a", "."), ("b", "."), ("c", "."), ("d", "x"), ("$", "y"), ("", "$")]
BURST = [("a", ""), ("b", ""), ("c", "."), ("d", ""), ("$", "."), ("", "x"), ("", "$")]


@pytest.mark.parametrize(("needed", "late"), [(1, 2), (2, 1), (3, 0), (4, -1), (None, -2)])
def test_steady_arrival(needed: int | None, late: int) -> None:
    # With 3 tokens needed, read in tick 2, the answer may begin in tick 3, and does.
    assert wake_ticks(read_table(CODEC, STEADY), needed) == late


@pytest.mark.parametrize(("needed", "late"), [(1, 1), (3, 1), (4, 0), (None, 0)])
def test_a_burst_is_one_tick(needed: int | None, late: int) -> None:
    assert wake_ticks(read_table(CODEC, BURST), needed) == late


def test_unknown_without_words_or_gate() -> None:
    silent = [("a", "."), ("$", "."), ("", "$")]
    assert wake_ticks(read_table(CODEC, silent), 1) is None
    assert wake_ticks(read_table(CODEC, STEADY), 9) is None
