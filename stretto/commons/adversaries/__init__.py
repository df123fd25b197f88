"""Villagers who do harm: one small file each, found by name, wrapped around a villager.

The file's name is the adversary's; others come from installed packages, as entry points
``stretto.adversaries``. The file gives a class called ``Plugin`` whose ``Settings`` are a dataclass
and which, called with a villager, gives the one that plays.
"""

from collections.abc import Callable, Mapping
from typing import Any

from stretto.commons.plugins import found
from stretto.commons.villager import Villager


def adversaries_of(
    settings: Mapping[str, Mapping[str, Any]],
) -> list[Callable[[Villager], Villager]]:
    """Adversaries by name, with their settings.

    Raises:
        ConfigError: there is none of that name, or a setting is wrong.
    """
    return [found("adversaries", name, values) for name, values in settings.items()]
