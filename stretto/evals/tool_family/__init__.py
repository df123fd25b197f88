"""Tasks for small models: fill the arguments of one tool from a request; checked by calling it.

Tools, templates, names and places of the held-back slice are others than those of training. The
arguments a request was made of serve only to know what the right call returns.
"""

import random
from dataclasses import dataclass
from typing import Any

from stretto.evals.tool_family.entry import Entry, Pools, call, pick
from stretto.evals.tool_family.held_back import HELD_BACK
from stretto.evals.tool_family.trained import TRAINED

_TRAINING = Pools(
    persons=("Anna Keller", "Tom Baker", "Maria Rossi", "Jin Park", "Omar Haddad", "Lucy Grant",
             "Peter Novak", "Sofia Lind", "David Cohen", "Priya Nair", "Emil Berg", "Nora Quinn"),
    cities=("Paris", "Berlin", "Madrid", "Boston", "Tokyo", "Cairo", "Vienna", "Denver", "Lima",
            "Oslo", "San Diego", "New Delhi"),
    year=2024,
)  # fmt: skip
_KEPT = Pools(
    persons=("Clara Weiss", "Ben Archer", "Ines Moreau", "Hugo Silva", "Rita Falk", "Amir Zaman",
             "Grace Oduya", "Viktor Hall"),
    cities=("Rome", "Chicago", "Lisbon", "Seoul", "Prague", "Nairobi", "Quebec City", "Perth"),
    year=2025,
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A request that one call of one tool answers.

    Attributes:
        id: tool and number.
        request: what the user says.
        tool: name, description and schema are shown to the model.
        right: code of the right call; never shown, never learnt from.
    """

    id: str
    request: str
    tool: Entry
    right: str


def tasks(count: int, *, held_back: bool, seed: int = 0) -> list[Task]:
    """``count`` different tasks, the tools in equal shares.

    Args:
        count: how many.
        held_back: of the slice for measuring, or of that for training.
        seed: of the drawing.
    """
    entries, pools = (HELD_BACK, _KEPT) if held_back else (TRAINED, _TRAINING)
    rng = random.Random(f"{seed} {'held back' if held_back else 'training'}")
    found: list[Task] = []
    seen: set[str] = set()
    for number, entry in enumerate(pick(entries, count, rng)):
        request, arguments = entry.draw(rng, pools)
        while request in seen:
            request, arguments = entry.draw(rng, pools)
        seen.add(request)
        found.append(Task(f"{entry.name}-{number}", request, entry, call(entry.name, arguments)))
    return found


def tool_names(*, held_back: bool) -> list[str]:
    """Names of the tools of a slice."""
    return [entry.name for entry in (HELD_BACK if held_back else TRAINED)]


__all__ = ["Entry", "Task", "tasks", "tool_names"]
