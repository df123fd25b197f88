"""Permits that can be traded: who wants to take more than its own buys from those who sell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from stretto.commons.mechanisms import Mechanism
from stretto.commons.polls import allowed, poll
from stretto.commons.stage import Stage


@dataclass(frozen=True)
class Settings:
    """How many there are.

    Attributes:
        units: permits of each villager a month; none: a part of the sustainable share.
        of_share: that part.
    """

    units: Annotated[int, Field(ge=0)] | None = None
    of_share: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True)
class Order:
    """An offer: units at a price each, in units of payoff."""

    name: str
    side: str
    units: int
    price: float


class Plugin(Mechanism):
    """A call market before each harvest: one price for all, half-way between the last pair."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._held: dict[str, int] = {}

    async def begin(self, stage: Stage) -> None:
        """Tell the rule."""
        words = stage.scenario
        stage.announce(
            f"Each {words.unit} needs a permit. Everybody gets the same number of permits each "
            "month and may sell some to others, or buy some, before the harvest; unused ones "
            "expire."
        )

    async def before_harvest(self, stage: Stage) -> None:
        """Hand out, trade, tell each what it holds."""
        each = allowed(stage, self._settings.units, self._settings.of_share)
        self._held = dict.fromkeys(stage.names, each)
        properties = {
            "side": {"enum": ["buy", "sell", "none"]},
            "count": {"type": "integer", "minimum": 0, "maximum": stage.village.rules.capacity},
            "price": {"type": "number", "minimum": 0},
        }

        def check(_: str, value: Mapping[str, Any]) -> str:
            short = value["side"] == "sell" and value["count"] > each
            return f"count: you have {each} permits to sell" if short else ""

        answers = await poll(
            stage, "trade", properties, {"side": "none", "count": 0, "price": 0}, check=check,
            permits=each, stock=stage.village.stock,
        )  # fmt: skip
        # Orders at the same price are served in an order that is drawn.
        drawn = stage.rng("permits").permutation(len(answers)).tolist()
        orders = [
            Order(name, value["side"], value["count"], float(value["price"]))
            for name, value in (list(answers.items())[i] for i in drawn)
        ]
        moved, price = clear(orders)
        for name, units in moved.items():
            self._held[name] += units
        if moved:
            bought = {name: moved[name] for name in stage.names if name in moved}
            stage.log("trade", mechanism="permits", price=price, units=bought)
            stage.pay("permits", "price", {name: -n * price for name, n in bought.items()})
        for name, units in self._held.items():
            stage.tell([name], "rule", f"You have permits for {units} this month.", always=True)
        held = "; ".join(f"{name} {units}" for name, units in self._held.items())
        stage.announce(f"Permits this month: {held}.", lasting=False)

    def demand(self, stage: Stage, name: str, units: int) -> int:
        """At most what permits are held for."""
        most = self._held[name]
        if units > most:
            stage.log("cut", mechanism="permits", agent=name, wanted=units, counts=most)
        return min(units, most)


def clear(orders: Sequence[Order]) -> tuple[dict[str, int], float]:
    """Permits gained (negative: sold) by villager, and the one price of all trades.

    The dearest bids meet the cheapest offers while a bid is at least the offer; the price is
    half-way between the last two that met. Equal prices are served in the order given.
    """
    bids = sorted((o for o in orders if o.side == "buy"), key=lambda o: -o.price)
    offers = sorted((o for o in orders if o.side == "sell"), key=lambda o: o.price)
    buying = [order for order in bids for _ in range(order.units)]
    selling = [order for order in offers for _ in range(order.units)]
    pairs = [(b, s) for b, s in zip(buying, selling, strict=False) if b.price >= s.price]
    moved: dict[str, int] = {}
    for buyer, seller in pairs:
        moved[buyer.name] = moved.get(buyer.name, 0) + 1
        moved[seller.name] = moved.get(seller.name, 0) - 1
    price = (pairs[-1][0].price + pairs[-1][1].price) / 2 if pairs else 0.0
    return moved, price
