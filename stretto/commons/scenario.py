"""The words of a setting: a lake, a pasture, a river. Data only, in ``scenarios/*.yaml``.

The numbers are :class:`stretto.commons.resource.Rules`; all scenarios share one environment, and
no code knows a scenario by name.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from stretto import config
from stretto.commons.resource import Growth, Rules
from stretto.errors import ConfigError


@dataclass(frozen=True)
class Scenario:
    """How a game is told.

    Attributes:
        name: of the scenario.
        place: where the stock is, as in "the lake".
        resource: what the stock is of, as in "fish".
        unit: one unit, as in "ton".
        units: several, as in "tons".
        people: who harvests, as in "fishers".
        act: what they do, infinitive, as in "catch".
        rules: the game as it is told to a villager; a template with the fields of Rules, and
            ``names`` of the others.
        growth: one sentence on how the stock grows back; a template with the fields of Rules.
        meeting: where they talk, as in "the village restaurant".
        stock: what there is at the start of a month; a template with ``stock``, ``units`` (those of
            the stock) and ``place``.
        stock_units: what the stock is counted in, as in "percent"; empty: the same units.
        took: what they did, as in "caught".
        memories: how many memories are retrieved before a harvest.
        tells_demand: whether a villager's own result names the demand beside the catch.
    """

    name: str
    place: str
    resource: str
    unit: str
    units: str
    people: str
    act: str
    rules: str
    growth: str
    meeting: str
    stock: str = "There are {stock} {units} at {place}."
    stock_units: str = ""
    took: str = "took"
    memories: int = 10
    tells_demand: bool = False

    def told_stock(self, stock: int) -> str:
        """What there is, in words."""
        units = self.stock_units or self.units
        return self.stock.format(stock=stock, units=units, place=self.place)

    def told_growth(self, rules: Rules) -> str:
        """How the stock grows back, in words that fit the rules."""
        growth = rules.growth
        if growth == Growth() and rules.capacity == 100:
            return self.growth.format(capacity=rules.capacity)
        if growth.kind == "multiply":
            law = f"is multiplied by {growth.rate:g}"
        else:
            law = f"grows by {growth.rate:g} times itself times the part of {self.place} still free"
        luck = f", give or take {growth.noise:.0%} of the growth" if growth.noise else ""
        return (
            f"Whatever {self.resource} is left at the end of a month {law}{luck}, "
            f"up to {rules.capacity} {self.stock_units or self.units}."
        )


def names() -> tuple[str, ...]:
    """Of the scenarios that are shipped."""
    folder = resources.files("stretto.commons") / "scenarios"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir()
                        if f.name.endswith(".yaml")))  # fmt: skip


@lru_cache(maxsize=16)
def scenario(name: str) -> Scenario:
    """The shipped scenario of that name, or one's own in a YAML file.

    Raises:
        ConfigError: there is none, or the file is not as it should be.
    """
    if name in names():
        with resources.as_file(
            resources.files("stretto.commons") / "scenarios" / f"{name}.yaml"
        ) as path:
            return config.load(Scenario, path)
    if name.endswith((".yaml", ".yml")):
        return config.load(Scenario, Path(name))
    raise ConfigError(
        f"scenario {name!r}: there is none; there are {', '.join(names())}, or give a .yaml file"
    )
