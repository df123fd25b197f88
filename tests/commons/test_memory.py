"""What comes to mind, by the paper's weights and by the reference's deviations."""

from datetime import date, timedelta

import pytest

from stretto.commons.calendar import first_day, last_day, meeting_day
from stretto.commons.memory import KEPT, Memory, MemoryStream, WordLlamaEmbedder
from stretto.commons.switches import Switches
from tests.commons.talking import Letters

DAY = date(2024, 1, 1)


def stream(*texts: str, switches: Switches | None = None, **how: object) -> MemoryStream:
    made = MemoryStream(Letters(), switches or Switches())
    for n, text in enumerate(texts):
        made.add(Memory(text, DAY + timedelta(n), DAY + KEPT, **how))  # type: ignore[arg-type]
    return made


def texts(made: MemoryStream, *foci: str, k: int = 1) -> list[str]:
    return [memory.text for memory in made.retrieve(foci, k, DAY)]


def test_relevance_then_recency() -> None:
    assert texts(stream("zzz", "fish", "zzz"), "fish") == ["fish"]
    assert texts(stream("one zzz", "two zzz", "six zzz"), "") == ["six zzz"]
    paper = Switches(recency="paper")
    assert texts(stream("one zzz", "two zzz", "six zzz", switches=paper), "") == ["one zzz"]


def test_importance_counts_and_flags_win() -> None:
    made = stream("aaa", "bbb")
    made.add(Memory("heavy", DAY, DAY + KEPT, importance=10))
    assert texts(made, "") == ["heavy"]
    made.add(Memory("agreed", DAY, DAY + KEPT, importance=1, always=DAY + KEPT))
    assert texts(made, "") == ["agreed"]


def test_each_once_in_the_order_of_dates() -> None:
    made = stream("aaa", "bbb", "ccc")
    assert texts(made, "ccc", "aaa", "ccc", k=1) == ["aaa", "ccc"]
    assert texts(made, "", k=9) == ["aaa", "bbb", "ccc"]


def test_chats_and_what_has_expired_stay_away() -> None:
    made = stream("aaa", kind="chat")
    assert texts(made, "aaa") == []
    made.add(Memory("gone", DAY, DAY))
    assert texts(made, "gone") == []
    made.add(Memory("here", DAY, DAY + timedelta(1)))
    assert texts(made, "gone") == ["here"]


def test_paper_order_shuffles_a_day_the_same_way_each_time() -> None:
    same = [f"{letter}" for letter in "abcdefgh"]

    def once(way: str) -> list[str]:
        made = MemoryStream(Letters(), Switches(order=way), seed=3)  # type: ignore[arg-type]
        for text in same:
            made.add(Memory(text, DAY, DAY + KEPT))
        return texts(made, "", k=8)

    assert once("corrected") == same
    assert once("paper") == once("paper") != same


@pytest.mark.parametrize(
    ("month", "meeting", "end"),
    [(1, "2024-01-30", "2024-01-31"), (2, "2024-02-28", "2024-02-29"),
     (4, "2024-04-29", "2024-04-30"), (13, "2025-01-30", "2025-01-31")],
)  # fmt: skip
def test_the_references_dates(month: int, meeting: str, end: str) -> None:
    assert meeting_day(month).isoformat() == meeting
    assert last_day(month).isoformat() == end
    assert first_day(month).day == 1


def test_the_default_embedder_knows_what_is_alike() -> None:
    pytest.importorskip("wordllama")
    vectors = WordLlamaEmbedder().embed(["the limit for fish", "how many tons of fish", "", "blue"])
    assert vectors.shape == (4, 256)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[3] + 0.1
    assert not vectors[2].any()
