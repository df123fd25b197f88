"""Runs of others, as games that our measures can be taken of.

``log_env.json`` of GovSim and its forks, or the same rows as JSON lines of many runs; and the
result files of Re-GovSim, which hold totals but no months. A row that does not fit is refused with
its place: a run that is read half would be measured wrongly.
"""

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stretto.commons.game import Game
from stretto.commons.metrics import equality
from stretto.commons.resource import Rules, share, threshold
from stretto.errors import InputError

MODERATORS = ("framework",)


def read_logs(path: str | Path, rules: Rules | None = None) -> dict[str, Game]:
    """Games by run.

    Args:
        path: a ``log_env.json``; a ``.jsonl`` or ``.jsonl.gz`` whose rows name their ``run``; or a
            folder, whose ``log_env.json`` are read, named by their place in it.
        rules: of the games; the paper's, with as many villagers as a run shows, if not given.

    Raises:
        InputError: nothing is there, or a row does not fit.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.rglob("log_env.json"))
        if not found:
            raise InputError(f"{path}: holds no log_env.json")
        return {
            str(one.parent.relative_to(path)): _game(_rows(one), rules, str(one)) for one in found
        }
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in _rows(path):
            runs[str(row.get("run", path.name))].append(row)
        return {name: _game(rows, rules, f"{path}: {name}") for name, rows in runs.items()}
    return {path.parent.name or path.name: _game(_rows(path), rules, str(path))}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        if text.lstrip().startswith("["):
            yield from json.loads(text)
        else:
            yield from (json.loads(line) for line in text.splitlines() if line.strip())
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: is not JSON: {error}") from None


def _game(rows: Iterable[Mapping[str, Any]], rules: Rules | None, where: str) -> Game:
    try:
        return _read_game(rows, rules, where)
    except KeyError as error:
        raise InputError(f"{where}: a row lacks {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: a row is no row of a log: {error}") from None


def _read_game(rows: Iterable[Mapping[str, Any]], rules: Rules | None, where: str) -> Game:
    """One run from its rows, in the order they were written."""
    harvests: dict[int, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    spoken: dict[int, int] = defaultdict(int)
    limits: dict[int, float] = {}
    for row in rows:
        month, who = int(row["round"]), str(row["agent_id"])
        if row["action"] == "harvesting":
            if who in harvests[month]:
                raise InputError(f"{where}: {who} harvests twice in round {month}")
            harvests[month][who] = row
        elif row["action"] == "utterance" and who not in MODERATORS:
            spoken[month] += 1
        if row["action"] == "conversation_resource_limit" and row.get("resource_limit") is not None:
            limits[month] = float(row["resource_limit"])
    months = sorted(harvests)
    if not months or months != list(range(len(months))):
        raise InputError(f"{where}: rounds {months[:20]} are not 0, 1, 2, ...")
    names = sorted({who for month in harvests.values() for who in month})
    present = np.array([[name in harvests[m] for name in names] for m in months])
    start = int(next(iter(harvests[0].values()))["resource_in_pool_before_harvesting"])
    if rules is None:
        rules = Rules(villagers=int(present[0].sum()), months=max(12, len(months)))
    if start != rules.first_stock:
        rules = replace(rules, start=start)

    def grid(field: str) -> np.ndarray:
        cells = [
            [float(harvests[m][name][field]) if name in harvests[m] else 0.0 for name in names]
            for m in months
        ]
        return np.array(cells).astype(np.int64)

    def once(field: str) -> np.ndarray:
        values = []
        for m in months:
            told = {int(row[field]) for row in harvests[m].values()}
            if len(told) > 1:
                raise InputError(f"{where}: round {m} has several values of {field}: {told}")
            values.append(told.pop())
        return np.array(values)

    stock = once("resource_in_pool_before_harvesting")
    left = once("resource_in_pool_after_harvesting")
    received = grid("resource_collected")
    if (wrong := np.flatnonzero(stock - received.sum(axis=1) != left)).size:
        raise InputError(f"{where}: round {wrong[0]}: what was taken is not what is missing")
    return Game(
        rules, tuple(names), stock, left, grid("wanted_resource"), received, present,
        present.copy(), bool(left[-1] < rules.collapse_below),
        np.array([spoken[m] for m in months]),
        np.array([limits.get(m, np.nan) for m in months]),
    )  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One run of a result file without months.

    Attributes:
        run: its name.
        totals: units by villager.
        survival_time: months.
        told: efficiency, equality and over-usage as the file says, 0 to 100.
        efficiency: from the totals, 0 to 1.
        equality: from the totals, 0 to 1; None if nothing was harvested.
        over_usage: 0 to 1, of runs of one month, whose totals are that month's; else None.
    """

    run: str
    totals: dict[str, float]
    survival_time: int
    told: dict[str, float]
    efficiency: float
    equality: float | None
    over_usage: float | None


def read_results(path: str | Path, rules: Rules | None = None) -> tuple[list[Record], list[str]]:
    """Records of Re-GovSim's result files, with what can be derived of them anew.

    Each file's own averages (its entry ``general``) are not read.

    Args:
        path: a file, or a folder of them.
        rules: of the games; the paper's if not given.

    Returns:
        The records, and the names of those that are empty in the file.

    Raises:
        InputError: nothing is there, or a record lacks a field.
    """
    path, rules = Path(path), rules or Rules()
    first = np.array(rules.first_stock)
    best = rules.months * int(threshold(rules, first))
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no .json file")
    records: list[Record] = []
    empty: list[str] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for run, fields in content.items():
                name = f"{file.parent.name}/{file.stem}/{run}"
                if run == "general":
                    continue
                if not fields:
                    empty.append(name)
                    continue
                totals = {name: float(gain) for name, gain in fields["gains"].items()}
                told = {key: fields[key] for key in ("efficiency", "equality", "over_usage")}
                taken, most = sum(totals.values()), int(share(rules, first, len(totals)))
                over = sum(gain > most for gain in totals.values()) / len(totals)
                records.append(
                    Record(
                        name,
                        totals,
                        int(fields["survival_time"]),
                        told,
                        1.0 - max(0.0, best - taken) / best,
                        equality(np.array(list(totals.values()))),
                        over if fields["survival_time"] == 1 else None,
                    )
                )
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{file}: cannot be read as results: {error}") from None
        except KeyError as error:
            raise InputError(f"{file}: a record lacks {error}") from None
    return records, empty
