"""Models side by side, by scenario; only runs of one protocol are ever averaged.

A protocol is everything that a run was but its models and its seed: rules, switches, prompts,
conditions, and the version of stretto. Entries of different protocols stand apart.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stretto.commons.compare import average
from stretto.commons.replay import GAME, read_events
from stretto.commons.report.grids import INVALID_NOTE, Grid, interval, markdown
from stretto.commons.stats import Interval
from stretto.commons.table import FORMS, MEASURES, About, Row, about, row_of_events
from stretto.errors import InputError
from stretto.runs import atomic_write

NAME = "leaderboard"
_ORDER = ("survived", "survival_time", "efficiency")


@dataclass(frozen=True)
class Entry:
    """One model, or mixture, in one scenario by one protocol.

    Attributes:
        scenario, model, protocol, prompts, stretto: see :class:`stretto.commons.table.About`.
        runs: how many.
        seeds: which.
        values: form -> measure -> mean with its interval; None where undefined in all runs.
    """

    scenario: str
    model: str
    protocol: str
    prompts: str
    stretto: str
    runs: int
    seeds: list[int]
    values: dict[str, dict[str, Interval | None]]


def leaderboard(*folders: str | Path, out: str | Path) -> list[Path]:
    """Write ``leaderboard.json``, ``.csv`` and ``.md`` of all finished runs in folders.

    Args:
        folders: of sweeps or runs; every ``game.jsonl`` below them that has its end counts.
        out: folder, made where needed.

    Returns:
        The files written.

    Raises:
        InputError: no finished run is there.
    """
    found = [one for folder in folders for one in _runs(Path(folder))]
    finished = [(row, known) for row, known, over in found if over]
    if not finished:
        raise InputError(f"{', '.join(map(str, folders))}: no finished run is there")
    entries = ranked(finished)
    protocols = {known.protocol: known.settings for _, known in finished}
    remarks = [
        f"{len(finished)} finished runs. Runs of different protocols are never averaged: compare "
        "entries of one protocol only."
    ]
    if len(found) > len(finished):
        remarks.append(f"{len(found) - len(finished)} runs are not finished and are left out.")
    if counts := {entry.runs for entry in entries if entry.runs < 5}:
        remarks.append(f"Some entries rest on as few as {min(counts)} runs.")
    board = {
        "v": 1, "remarks": remarks, "entries": [asdict(entry) for entry in entries],
        "protocols": dict(sorted(protocols.items())),
    }  # fmt: skip
    text = json.dumps(board, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = "# Leaderboard\n\n" + "\n".join(f"- {one}" for one in remarks) + "\n\n"
    files = {"json": text, "csv": _csv(entries), "md": page + markdown(_grid(entries))}
    out = Path(out)
    for end, data in files.items():
        atomic_write(out / f"{NAME}.{end}", data.encode("utf-8", "replace"))
    return [out / f"{NAME}.{end}" for end in files]


def ranked(runs: Sequence[tuple[Row, About]]) -> list[Entry]:
    """Entries by scenario and protocol; within one, by survival, then efficiency (strict)."""
    cells: dict[tuple[str, str, str], list[tuple[Row, About]]] = {}
    for row, known in runs:
        cells.setdefault((known.scenario, known.protocol, known.models), []).append((row, known))
    entries = []
    for (scenario, protocol, model), group in cells.items():
        rows, known = [row for row, _ in group], group[0][1]
        seeds = [row.seed for row in rows if row.seed is not None]
        if len(set(seeds)) < len(seeds):
            rows = list({row.seed: row for row in rows}.values())  # the same run found twice
        values = {form: {name: average(rows, form, name) for name in MEASURES} for form in FORMS}
        entries.append(Entry(
            scenario, model, protocol, known.prompts, known.stretto, len(rows),
            sorted(set(seeds)), values,
        ))  # fmt: skip

    def place(entry: Entry) -> tuple[Any, ...]:
        best = [
            entry.values["strict"][name] for name in ("survived", "survival_time", "efficiency")
        ]
        worth = [-one.value if one is not None else 0.0 for one in best]
        return entry.scenario, entry.protocol, *worth, entry.model

    return sorted(entries, key=place)


def _runs(folder: Path) -> list[tuple[Row, About, bool]]:
    found = []
    for path in sorted(folder.rglob(GAME)) if folder.is_dir() else [folder]:
        events = read_events(path)
        if any(event["type"] == "harvest" for event in events):
            over = events[-1]["type"] == "end"
            found.append((row_of_events(events, str(path.parent), {}), about(events), over))
    return found


def _csv(entries: Sequence[Entry]) -> str:
    import polars as pl

    lines = []
    for entry in entries:
        line = {k: v for k, v in asdict(entry).items() if k not in ("values", "seeds")}
        line["seeds"] = " ".join(map(str, entry.seeds))
        for form, measures in entry.values.items():
            end = "" if form == "strict" else "_legacy"
            for name, value in measures.items():
                for field in ("value", "low", "high"):
                    title = f"{name}{end}" + ("" if field == "value" else f"_{field}")
                    line[title] = None if value is None else getattr(value, field)
        lines.append(line)
    return pl.DataFrame(lines, infer_schema_length=None).write_csv()


def _grid(entries: Sequence[Entry]) -> Grid:
    kinds = MEASURES.items()
    titles = (f"{kind.title}, {kind.unit}" for _, kind in kinds)
    header = ("scenario", "protocol", "model", "form", "runs", *titles, "prompts", "stretto")
    body = tuple(
        (entry.scenario, entry.protocol, entry.model, form, str(entry.runs),
         *(interval(entry.values[form][name], kind.scale) for name, kind in kinds),
         entry.prompts, entry.stretto)
        for entry in entries for form in FORMS
    )  # fmt: skip
    return Grid(
        NAME, "Entries",
        "Mean [95 % interval] over runs. Protocols and prompts by hash; the JSON file has them "
        f"whole. {INVALID_NOTE}", header, body,
    )  # fmt: skip
