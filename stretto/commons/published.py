"""Runs that others published, as a table: by scenario, condition and model.

What a log cannot tell is left open: whether a harvest of nothing was an answer that could not be
read (GovSim records both as 0), and whether a record without months ended by a collapse. Runs that
must not be compared are left out, and it is said which and why.
"""

import ast
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stretto.commons.game import Game
from stretto.commons.importers import Record, read_logs, read_results
from stretto.commons.resource import Rules, grow
from stretto.commons.table import MEASURES, Row, Table, row_of_game
from stretto.errors import InputError

SCENARIOS = {"fish": "fishery", "fishing": "fishery", "sheep": "pasture",
             "fishing_japanese": "fishery in Japanese"}  # fmt: skip
_ENV = re.compile(r"^(?:(?P<model>.*)_)?(?P<scenario>[a-z]+)_baseline_concurrent_?(?P<more>.*)$")


def read_published(paths: Sequence[Path]) -> Table:
    """The runs of GovSim's logs and Re-GovSim's result files that can be compared.

    Args:
        paths: logs (``log_env.json``, or ``.jsonl``, ``.jsonl.gz`` whose rows name their run),
            result files, or folders of them. A ``*summary*.csv`` beside logs tells each run's
            model, scenario and env; Re-GovSim's result files tell it of logs of the same name.

    Raises:
        InputError: nothing is there, or nothing that may be used.
    """
    found = _Found()
    for path in paths:
        found.read(path)
    rows = sorted(found.rows(), key=lambda row: (row.label, row.run))
    if not rows:
        raise InputError(f"{', '.join(map(str, paths))}: no run that may be used")
    title = ", ".join(path.name for path in paths)
    return Table(title, tuple(rows), tuple(_remarks(rows, found)))


@dataclass
class _Found:
    """What was read so far.

    Attributes:
        games: logs by source and run.
        facts: lines of summaries by source and run.
        records: of result files, by source.
        excluded: run -> why.
        checked: records that have a log: whether all figures agree to two decimals, by run.
        empty: records without figures.
    """

    games: dict[str, dict[str, Game]] = field(default_factory=dict)
    facts: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    checked: dict[str, bool] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def read(self, path: Path) -> None:
        """A file or folder."""
        folder, source = (path, path.name) if path.is_dir() else (path.parent, path.name)
        logs = [path] if path.is_file() else sorted(path.glob("*.jsonl*"))
        logs = [log for log in logs if log.suffix != ".json" or log.name == "log_env.json"]
        if path.is_dir() and any(path.rglob("log_env.json")):
            logs.append(path)
        for log in logs:
            self.games.setdefault(source, {}).update(read_logs(log))
        results = [path] if path.is_file() else sorted(path.rglob("*.json"))
        for file in results:
            if file.suffix == ".json" and file.name != "log_env.json":
                records, empty = read_results(file)
                self.records.setdefault(source, []).extend(records)
                self.empty += empty
        if source not in self.games and source not in self.records:
            raise InputError(f"{path}: holds neither logs nor result files")
        told: dict[str, dict[str, str]] = {}
        for summary in sorted(folder.glob("*summary*.csv")) if logs else []:
            with summary.open(encoding="utf-8", newline="") as file:
                told |= {line["run"]: line for line in csv.DictReader(file) if "run" in line}
        self.facts[source] = told

    def rows(self) -> list[Row]:
        """Of all that may be used."""
        found: list[Row] = []
        many = len(self.games.keys() | self.records.keys()) > 1
        for source in sorted(self.games.keys() | self.records.keys()):
            rows = self._rows(source)
            if many:  # what others played is never averaged over sources
                rows = [replace(r, condition={**r.condition, "source": source}) for r in rows]
            found += rows
        return found

    def _rows(self, source: str) -> list[Row]:
        records = {record.run.rpartition("/")[2]: record for record in self.records.get(source, [])}
        games = self.games.get(source, {})
        conditions = {
            run: found
            for run in games
            if (found := _condition(self.facts[source].get(run), records.get(run))) is not None
        }
        others = _other_laws(games, conditions)
        rows = []
        for run, game in games.items():
            if why := _unusable(game, conditions.get(run), others):
                self.excluded[run] = why
                continue
            told = self.facts[source].get(run, {}).get("seed", "")
            seed = int(told) if told.isdecimal() else None
            row = _unknown_invalid(row_of_game(game, run, conditions[run], seed))
            if run in records:
                self.checked[run] = _agree(row, records[run])
            rows.append(row)
        return rows + [_of_record(r) for name, r in records.items() if name not in games]


def _condition(facts: Mapping[str, str] | None, record: Record | None) -> dict[str, str] | None:
    """What a run was of; None if nobody says."""
    if record is not None:
        return _named(record.run.split("/")[-2])
    if facts is None or not facts.get("env") or (not facts["model"] and facts["n_mix"] == "0"):
        return None
    model = facts["model"]
    if model.startswith("["):
        model = " + ".join(f"{n} x {m}" for m, n in Counter(ast.literal_eval(model)).items())
    return {**_named(facts["env"]), "scenario": _scenario(facts["scenario"]),
            "model": model or "a mixture not named"}  # fmt: skip


def _named(text: str) -> dict[str, str]:
    """Scenario, condition and model from a name such as ``phi-4_fish_baseline_concurrent_more``."""
    match = _ENV.match(text)
    if match is None:
        return {"scenario": "unknown", "condition": text, "model": "unknown"}
    more = (match["more"] or "").removesuffix("japanese").strip("_")
    words = more.replace("_Level", ", level ").replace("_", " ") or "baseline"
    model = match["model"] or "unknown"
    return {"scenario": _scenario(match["scenario"]), "condition": words, "model": model}


def _scenario(name: str) -> str:
    return SCENARIOS.get(name, name)


def _other_laws(games: Mapping[str, Game], conditions: Mapping[str, dict[str, str]]) -> set[str]:
    """Scenarios whose stock does not grow as the rules say: other games, not measured here."""
    laws: dict[str, list[bool]] = defaultdict(list)
    for run, condition in conditions.items():
        game = games[run]
        grown = grow(game.rules, game.left[:-1])
        laws[condition["scenario"]].append(bool((grown == game.stock[1:]).all()))
    return {scenario for scenario, fits in laws.items() if not all(fits)}


def _unusable(game: Game, condition: dict[str, str] | None, others: set[str]) -> str:
    """Why a run is left out; empty if it is not."""
    if condition is None:
        return "no configuration is known (no model, or no record)"
    if condition["scenario"] in others:
        return f"{condition['scenario']}: another game, whose stock does not grow by these rules"
    if game.months >= game.rules.months and not game.received.any():
        return "nothing was ever harvested"
    return ""


def _unknown_invalid(row: Row) -> Row:
    """Logs do not tell invalid answers from harvests of nothing."""
    return replace(row, strict={**row.strict, "invalid": None},
                   legacy={**row.legacy, "invalid": None})  # fmt: skip


def _of_record(record: Record) -> Row:
    """A record without months: what it says, and what can be derived of it anew."""
    rules, months = Rules(), record.survival_time
    taken = sum(record.totals.values())
    # After one month what is left is known: a village that left enough was broken off.
    known_alive = months == 1 and rules.first_stock - taken >= rules.collapse_below
    strict: dict[str, float | None] = {
        **dict.fromkeys(MEASURES), "survival_time": float(months),
        "survived": float(months >= rules.months), "gain": taken / len(record.totals),
        "efficiency": record.efficiency, "equality": record.equality,
        "over_usage": record.told["over_usage"] / 100,
    }  # fmt: skip
    # Over-usage as GovSim prints it needs the number of utterances.
    legacy = {**strict, "over_usage": None}
    return Row(
        record.run, _named(record.run.split("/")[-2]), None, strict, legacy, months, rules.months,
        months < rules.months and not known_alive,
    )  # fmt: skip


def _agree(row: Row, record: Record) -> bool:
    ours = [100 * (row.strict[name] or 0.0) for name in ("efficiency", "equality", "over_usage")]
    told = [record.told[name] for name in ("efficiency", "equality", "over_usage")]
    close = np.allclose(np.round(ours, 2), np.round(told, 2), atol=0.0051)
    return bool(close) and row.months == record.survival_time


def _remarks(rows: Sequence[Row], found: _Found) -> list[str]:
    logged = [row for row in rows if row.zero_months is not None]
    said = [
        f"{len(rows)} runs of others: {len(logged)} from logs, month by month, "
        f"{len(rows) - len(logged)} from records of totals only."
    ]
    for why, count in Counter(found.excluded.values()).items():
        names = [run for run, reason in found.excluded.items() if reason == why]
        shown = ", ".join(names[:12]) + (", ..." if count > 12 else "")
        said.append(f"Left out, {count} run{'s' * (count > 1)}: {why}: {shown}.")
    if found.empty:
        said.append(f"Left out, {len(found.empty)} records without any figure: "
                    f"{', '.join(found.empty)}.")  # fmt: skip
    if found.checked:
        bad = [run for run, agrees in found.checked.items() if not agrees]
        said.append(
            f"{len(found.checked)} runs have both a log and a record: scored anew from the log, "
            f"{len(found.checked) - len(bad)} agree with the record to two decimals"
            + (f"; not: {', '.join(bad)}." if bad else ".")
        )
    if logged:
        zero = [row.run for row in logged if row.zero_months]
        said.append(
            "Invalid answers are not known: GovSim records an answer that could not be read as a "
            f"harvest of 0. {len(zero)} runs have a month in which nobody harvested anything, "
            f"which looks like that rather than restraint: {', '.join(zero) or 'none'}."
        )
    broken = [row.run for row in rows if row.months < row.horizon and not row.collapsed]
    if broken:
        said.append(
            f"{len(broken)} runs ended before the horizon without a collapse: broken off. Survival "
            "curves count them as alive when they were last seen; means, rates and the authors' "
            f"own figures count them as ended there. {', '.join(broken[:20])}"
            + (", ..." if len(broken) > 20 else ".")
        )
    if len(logged) < len(rows):
        said.append(
            "Records: survival means 12 months (a collapse in the last one is not seen); "
            "over-usage is as the file says, by the paper's formula, except where a log tells."
        )
    return said
