"""Institutions of a village: one small file each, found by name.

A mechanism is a class with a frozen config and any of the hooks of :class:`Mechanism`. The file's
name is its name; others come from installed packages, as entry points ``stretto.mechanisms``. The
file (or entry point) gives a class called ``Plugin`` whose ``Settings`` are a dataclass.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stretto.commons.plugins import found

if TYPE_CHECKING:
    from stretto.commons.stage import Stage
    from stretto.commons.village import Harvest


class Mechanism:
    """What a mechanism can do; each hook does nothing by default."""

    async def before_harvest(self, stage: "Stage") -> None:
        """A month begins; newcomers are there."""

    def demand(self, stage: "Stage", name: str, units: int) -> int:
        """What counts as a villager's demand, which was ``units``."""
        return units

    async def after_harvest(self, stage: "Stage", harvest: "Harvest") -> None:
        """All have harvested; nobody has talked."""

    async def before_talk(self, stage: "Stage", harvest: "Harvest") -> None:
        """The meeting begins."""


def mechanisms_of(settings: Mapping[str, Mapping[str, Any]]) -> list[Mechanism]:
    """Mechanisms by name, with their settings, in the order given.

    Raises:
        ConfigError: there is none of that name, or a setting is wrong.
    """
    return [found("mechanisms", name, values) for name, values in settings.items()]
