"""The items of the tasks: from the development pack, or generated."""

import os
import tarfile
import tempfile
from pathlib import Path

from stretto.errors import InputError
from stretto.evals.config import DATA_TASKS, EfficiencyConfig
from stretto.streams.examples import GENERATED, Example, load_examples

_FILES = {
    "proofwriter": "proofwriter_dev.jsonl",
    "pubmedqa": "pubmedqa_100.jsonl",
    "gsm8k": "gsm8k_dev473.jsonl",
}
_FULL = {"proofwriter": 500, "pubmedqa": 100, "gsm8k": 200}
"""Items of a full run (``limit`` 0); 500 of a generated family."""
_FULL_GENERATED = 500

PACK = Path("../shared/data/dev.tar.xz")
"""Where the packed development data lie in a workshop checkout."""

TASKS = (*DATA_TASKS, *GENERATED)


def text_of(example: Example) -> str:
    """The user's whole text."""
    return "".join(example.chunks)


def choose_tasks(tasks: list[str] | None, source: Path | None) -> tuple[str, ...]:
    """The tasks to run: those asked for, else all that there are data for.

    Raises:
        InputError: an unknown task, or one whose data are not here.
    """
    for task in tasks or ():
        if task not in TASKS:
            raise InputError(f"no task {task!r}; choose from {', '.join(TASKS)}")
        if task in _FILES and source is None:
            raise InputError(f"task {task!r} needs the development pack: give --source DIR")
    if tasks:
        return tuple(dict.fromkeys(tasks))
    return tuple(GENERATED) if source is None else TASKS


def find_source(given: Path | None) -> Path | None:
    """The folder of the unpacked development pack; None if there is none.

    Args:
        given: a folder, which is checked; None looks for ``PACK`` and unpacks it to the cache.

    Raises:
        InputError: the given folder is not the pack, or the archive is damaged.
    """
    if given is not None:
        missing = [name for name in _FILES.values() if not (given / name).is_file()]
        if missing:
            raise InputError(f"{given}: not the unpacked development pack (no {missing[0]})")
        return given.resolve()
    return _unpacked(PACK) if PACK.is_file() else None


def _unpacked(pack: Path) -> Path:
    from stretto.models.store import cache_dir

    folder = cache_dir() / "data" / "dev"
    if all((folder / name).is_file() for name in _FILES.values()):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        try:
            with tarfile.open(pack) as archive:
                archive.extractall(work, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{pack}: cannot be unpacked ({error})") from None
        if folder.exists():
            raise InputError(f"{folder}: incomplete; remove it and try again")
        os.replace(Path(work) / "dev", folder)  # noqa: PTH105 - atomic, and says so
    return folder


def load_items(config: EfficiencyConfig) -> tuple[dict[str, list[Example]], list[str]]:
    """Items by task, the same for every run with the same settings, and remarks for the report.

    Items of the pack are its first ones; of a generated family, the first of its dev split.

    Raises:
        InputError: a file is missing or malformed.
    """
    items, remarks = {}, []
    for task in config.tasks:
        generated = task in GENERATED
        most = config.limit if config.goal_limit is None else config.goal_limit
        limit = most or _FULL.get(task, _FULL_GENERATED)
        path = None if generated else Path(config.source) / _FILES[task]
        items[task] = load_examples(task, path, limit=limit, split="dev")
        if len(items[task]) < limit:
            remarks.append(f"{task}: {len(items[task])} items, fewer than the {limit} asked for")
    absent = [task for task in DATA_TASKS if task not in config.tasks]
    if absent:
        remarks.append(
            f"not measured: {', '.join(absent)}"
            + ("" if config.source else " (the development pack is not here; see --source)")
        )
    return items, remarks
