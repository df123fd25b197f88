"""How well virtual seconds match real ones: a few items run alone in real time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stretto.evals.metrics import median, spread


@dataclass(frozen=True)
class WallCheck:
    """Real against virtual seconds of one system at one rate.

    Attributes:
        n: items.
        virtual_s, wall_s: median delay after the end of the input.
        ratio: wall seconds a row of that delay over virtual ones, median and quartiles over items;
            a row, as the two answers need not be equally long.
        same: items whose answer was the same text in both.
    """

    system: str
    rate: str
    n: int
    virtual_s: float
    wall_s: float
    ratio: float
    low: float
    high: float
    same: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def cells(self) -> list[str]:
        """For a printed table."""
        return [
            self.system,
            self.rate,
            str(self.n),
            f"{self.virtual_s:.2f}",
            f"{self.wall_s:.2f}",
            f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]",
            f"{self.same} of {self.n}",
        ]


def check(events: Iterable[Mapping[str, Any]]) -> list[WallCheck]:
    """Group ``wall`` events by system and rate."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        groups.setdefault((event["system"], event["rate"]), []).append(event)
    return [_summarise(*key, group) for key, group in groups.items()]


def _summarise(system: str, rate: str, group: Sequence[Mapping[str, Any]]) -> WallCheck:
    virtual, wall = [e["virtual_s"] for e in group], [e["wall_s"] for e in group]
    ratios = [
        (e["wall_s"] / e["wall_rows"]) / (e["virtual_s"] / e["virtual_rows"])
        for e in group
        if min(e["virtual_s"], e["virtual_rows"], e["wall_rows"]) > 0
    ]
    return WallCheck(
        system, rate, len(group), median(virtual), median(wall), median(ratios), *spread(ratios),
        same=sum(e["same"] for e in group),
    )  # fmt: skip
