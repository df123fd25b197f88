"""Every known defect of the reference, as a switch between what it does and what it should do."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from stretto.errors import ConfigError

Way = Literal["paper", "corrected"]


@dataclass(frozen=True)
class Switches:
    """Each is ``corrected`` or does as the reference code does, ``paper`` (GovSim at 1d11adf).

    Lean villagers have no part in recency, order, importance, limits, clock, turns, speakers and
    sentences: they have no such memory and no such meeting.

    Attributes:
        parsing: an answer that cannot be read. paper: asked once; a harvest counts as a demand of
            0, as if it were restraint. corrected: asked again, then recorded as invalid.
        recency: 0.99**i of a memory. paper: i counts from the oldest, so old ones weigh most.
            corrected: from the newest.
        speakers: who generates what a villager says. paper: the first villager's model, for all,
            from each one's own memories. corrected: each villager's own.
        turns: who speaks next. paper: the speaker may name itself. corrected: one of the others.
        clock: the date of the talk and of what is remembered of it. paper: only the first
            villager's clock goes on to the meeting; to the others it is still the first of the
            month, so that their memories expire early, and to a newcomer 1 January. corrected: all.
        order: memories of the same day. paper: shuffled (there: by memory address; here by the
            seed). corrected: as they came.
        expiry: what was seen. paper: stock, catches and results are forgotten within the month, so
            that only written thoughts and agreed limits last. corrected: kept as long as thoughts.
        importance: a rating. paper: any number. corrected: 1 to 10.
        limits: an agreed limit. paper: any number, totals too. corrected: between 0 and the
            capacity, and the question says that totals and mere proposals are none.
        newcomer: what a village with a newcomer is told. paper: the share of those who were there
            at first (in month 1 always 10), and the newcomer's name from the first month.
            corrected: the share and the names of those who are there.
        sentences: a thought about the meeting. paper: cut at its first full stop, also within 2.5.
            corrected: whole.
    """

    parsing: Way = "corrected"
    recency: Way = "corrected"
    speakers: Way = "corrected"
    turns: Way = "corrected"
    clock: Way = "corrected"
    order: Way = "corrected"
    expiry: Way = "corrected"
    importance: Way = "corrected"
    limits: Way = "corrected"
    newcomer: Way = "corrected"
    sentences: Way = "corrected"

    def __post_init__(self) -> None:
        for one in fields(self):
            if (way := getattr(self, one.name)) not in ("paper", "corrected"):
                raise ConfigError(f"switches.{one.name}: paper or corrected, not {way!r}")

    @classmethod
    def all(cls, way: Way) -> "Switches":
        """All of them."""
        ways: Any = {one.name: way for one in fields(cls)}
        return cls(**ways)
