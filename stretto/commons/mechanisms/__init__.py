"""Institutions of a village: one small file each, found by name.

A mechanism is a class with a frozen config and any of the hooks of :class:`Mechanism`. The file's
name is its name; others come from installed packages, as entry points ``stretto.mechanisms``. The
file (or entry point) gives a class called ``Plugin`` whose ``Settings`` are a dataclass.

Everything drawn comes from ``stage.rng``, everything asked goes through ``stage.ask``: then the
same run gives the same record, and a broken run goes on.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stretto.commons.plugins import found

if TYPE_CHECKING:
    from stretto.commons.stage import Stage
    from stretto.commons.village import Harvest


class Mechanism:
    """What a mechanism can do; each hook does nothing by default."""

    async def begin(self, stage: "Stage") -> None:
        """The game begins: the time to announce rules."""

    async def before_harvest(self, stage: "Stage") -> None:
        """A month begins; newcomers are there."""

    def demand(self, stage: "Stage", name: str, units: int) -> int:
        """What counts as a villager's demand, which was ``units``.

        Measures go by what counts; the record's answers keep what was wanted.
        """
        return units

    async def after_harvest(self, stage: "Stage", harvest: "Harvest") -> None:
        """All have harvested; nobody has talked."""

    async def before_talk(self, stage: "Stage", harvest: "Harvest") -> None:
        """The meeting begins; never called in a village without talk."""

    async def report(
        self, stage: "Stage", harvest: "Harvest", told: dict[str, int]
    ) -> dict[str, int]:
        """What all are told that each took, which was ``told``; who is left out is not told of.

        Called once a month, where catches are seen.
        """
        return told

    async def after_talk(self, stage: "Stage", harvest: "Harvest") -> None:
        """The evening is over, in villages without talk too; then all reflect."""


def mechanisms_of(settings: Mapping[str, Mapping[str, Any]]) -> list[Mechanism]:
    """Mechanisms by name, with their settings, in the order given.

    Raises:
        ConfigError: there is none of that name, or a setting is wrong.
    """
    return [found("mechanisms", name, values) for name, values in settings.items()]
