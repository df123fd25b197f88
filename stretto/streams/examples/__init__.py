"""Examples: a source that arrives in chunks and a solution in steps. One file a data set."""

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path

from stretto.errors import InputError
from stretto.streams.examples.base import Example, read_rows

_TASKS = {
    "gsm8k": "gsm8k",
    "proofwriter": "proofwriter",
    "pubmedqa": "pubmedqa",
    "t0": "t0",
    "needle_haystack": "reasoning",
    "leg_counting": "reasoning",
    "chain_sum": "reasoning",
}
GENERATED = ("leg_counting", "chain_sum", "needle_haystack")
"""Tasks that need no file: reasoning-gym makes them."""


def task_names() -> list[str]:
    """Tasks that :func:`load_examples` knows."""
    return list(_TASKS)


def load_examples(
    task: str, path: str | Path | None = None, *, limit: int | None = None, split: str = "train"
) -> list[Example]:
    """Examples of one task.

    Args:
        task: see :func:`task_names`.
        path: the data file; None for a generated task.
        limit: at most that many, from the start; a generated task needs it.
        split: for generated tasks, ``train`` or ``dev``; the two never share an item.

    Raises:
        InputError: unknown task, missing file, or a malformed row (names its line).
    """
    if task not in _TASKS:
        raise InputError(f"no task {task!r}; choose from {', '.join(_TASKS)}")
    module = import_module(f"stretto.streams.examples.{_TASKS[task]}")
    if task in GENERATED:
        if limit is None:
            raise InputError(f"task {task!r} is generated without end: give a limit")
        return module.generate(task, limit, split)
    if path is None:
        raise InputError(f"task {task!r} needs a data file")
    parse: Callable[[dict], Example | None] = module.parse
    return list(islice(_parsed(parse, Path(path)), limit))


def _parsed(parse: Callable[[dict], Example | None], path: Path) -> Iterator[Example]:
    for number, row in read_rows(path):
        try:
            example = parse(row)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"{path}, line {number}: unexpected row ({error!r})") from None
        if example is not None:
            yield example


def demo_items() -> dict[str, Example]:
    """The few items that travel with the package, by name, with source and licence in the file."""
    import json
    from importlib.resources import files

    items = {}
    folder = files("stretto") / "data_items"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".json"):
            for name, fields in json.loads(entry.read_text(encoding="utf-8"))["items"].items():
                items[name] = Example.from_dict(fields)
    return items


__all__ = ["GENERATED", "Example", "demo_items", "load_examples", "task_names"]
