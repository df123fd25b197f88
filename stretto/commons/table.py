"""One row a run: what was varied, every measure in both forms, and how many answers were invalid.

Rows come from a sweep, from one run, or from runs of others (:mod:`stretto.commons.published`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto import config as configs
from stretto.commons import sweep as sweeps
from stretto.commons.game import Game
from stretto.commons.metrics import measure
from stretto.commons.replay import GAME, Event, game_of, read_events
from stretto.commons.run_config import RunConfig
from stretto.errors import InputError

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Kind:
    """How a measure is written.

    Attributes:
        title: as a reader reads it.
        unit: of the written number.
        scale: what a value is multiplied by before it is written.
    """

    title: str
    unit: str
    scale: float = 1.0


MEASURES = {
    "survived": Kind("survival rate", "% of runs", 100),
    "survival_time": Kind("survival time", "months"),
    "gain": Kind("gain per villager", "units"),
    "payoff": Kind("payoff per villager, with transfers", "units"),
    "efficiency": Kind("efficiency", "%", 100),
    "equality": Kind("equality", "%", 100),
    "over_usage": Kind("over-usage", "% of harvests", 100),
    "over_demand": Kind("over-demand", "% of harvests", 100),
    "invalid": Kind("invalid answers", "% of harvests", 100),
}
FORMS = ("strict", "legacy")

Values = Mapping[str, float | None]


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        run: its name.
        condition: what sets it apart, by factor.
        seed: of the run; None if not known.
        strict, legacy: measures by name, see :class:`stretto.commons.metrics.Measures`; None where
            undefined or not known.
        months: played, the one of a collapse too.
        horizon: months.
        collapsed: whether the stock fell below the limit.
        stock: units at the start of each month; empty if not known.
        zero_months: months in which nobody got anything; None if not known.
        scenario, models, protocol: see :func:`about`; empty if not known.
    """

    run: str
    condition: Mapping[str, Any]
    seed: int | None
    strict: Values
    legacy: Values
    months: int
    horizon: int
    collapsed: bool
    stock: tuple[int, ...] = ()
    zero_months: int | None = None
    scenario: str = ""
    models: str = ""
    protocol: str = ""

    @property
    def label(self) -> str:
        """The condition in words."""
        return label(self.condition)

    def values(self, form: str) -> Values:
        """Measures in a form."""
        return self.strict if form == "strict" else self.legacy


@dataclass(frozen=True)
class Table:
    """Runs to be compared.

    Attributes:
        title: what they are.
        rows: one a run, by condition.
        remarks: what a reader must know of them.
    """

    title: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()

    @property
    def conditions(self) -> dict[str, list[Row]]:
        """Rows by condition, in the order in which conditions come."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.label, []).append(row)
        return found

    @property
    def factors(self) -> dict[str, list[Any]]:
        """What was varied: name -> values, in the order in which they come."""
        found: dict[str, list[Any]] = {}
        for row in self.rows:
            for name, value in row.condition.items():
                if value not in found.setdefault(name, []):
                    found[name].append(value)
        return found

    def frame(self) -> "pl.DataFrame":
        """All of it, tidy: a line a run, measures as ``gain`` (strict) and ``gain_legacy``."""
        import polars as pl

        factors = list(self.factors)
        lines = []
        for row in self.rows:
            line: dict[str, Any] = {"run": row.run, "condition_label": row.label}
            line |= {name: _text(row.condition.get(name, "")) for name in factors}
            line |= {
                "seed": row.seed, "scenario": row.scenario, "models": row.models,
                "protocol": row.protocol, "months": row.months, "horizon": row.horizon,
                "collapsed": row.collapsed, "zero_months": row.zero_months,
            }  # fmt: skip
            for name in MEASURES:
                line |= {name: _number(row.strict[name]),
                         f"{name}_legacy": _number(row.legacy[name])}  # fmt: skip
            lines.append(line)
        return pl.DataFrame(lines, infer_schema_length=None)


def read_table(path: str | Path) -> Table:
    """The runs of a sweep's folder, or one run's.

    Raises:
        InputError: it is neither, or no run is finished.
    """
    path = Path(path)
    if (path / "manifest.json").exists():
        return _sweep(path)
    if (path / GAME).exists() or path.is_file():
        return Table(path.name, (row_of_events(read_events(path), _name(path), {}),))
    raise InputError(f"{path}: holds neither a sweep (manifest.json) nor a run ({GAME})")


def row_of_events(events: Sequence[Event], run: str, condition: Mapping[str, Any]) -> Row:
    """A recorded game as a row."""
    known = about(events)
    return row_of_game(
        game_of(events, run), run, condition, events[0]["config"]["seed"],
        scenario=known.scenario, models=known.models, protocol=known.protocol,
    )  # fmt: skip


def row_of_game(
    game: Game, run: str, condition: Mapping[str, Any], seed: int | None, **known: Any
) -> Row:
    """A game as a row."""
    strict, legacy = (values(asdict(measure(game, form))) for form in ("strict", "legacy"))
    return Row(
        run, condition, seed, strict, legacy, game.months, game.rules.months, game.collapsed,
        tuple(game.stock.tolist()), int((game.received.sum(axis=1) == 0).sum()), **known,
    )  # fmt: skip


def values(measures: Mapping[str, Any]) -> dict[str, float | None]:
    """Measures as numbers."""
    return {
        name: None if measures.get(name) is None else float(measures[name]) for name in MEASURES
    }


def label(condition: Mapping[str, Any]) -> str:
    """A condition in words: names say themselves, settings with their name."""
    words = []
    for name, value in condition.items():
        short = name.rpartition(".")[2].replace("_", " ")
        plain = name in ("condition", "model", "scenario", "source")
        words.append(_text(value) if plain else f"{short} {_text(value)}")
    return ", ".join(words) or "all runs"


@dataclass(frozen=True)
class About:
    """What a recorded run was of.

    Attributes:
        scenario: its name.
        models: of the villagers in their order, as in ``2 x a, 3 x b``.
        protocol: hash of everything but models and seed: rules, switches, prompts, version. Runs
            with different ones are not comparable.
        prompts: hash of all prompts.
        stretto: version.
        settings: what the protocol is the hash of.
    """

    scenario: str
    models: str
    protocol: str
    prompts: str
    stretto: str
    settings: dict[str, Any]


def about(events: Sequence[Event]) -> About:
    """What a record says of its run."""
    start = events[0]
    config = configs.load(RunConfig, start["config"])
    models = {seat["name"]: seat["model"] for seat in start["seats"]}
    settings = configs.dump(config)
    for name in ("seed", "seats", "newcomers"):
        settings.pop(name)
    # Who sits where counts, whatever model it is; a lone seat and as many equal ones are the same.
    settings["people"] = [[seat.name, seat.goal] for seat in config.everybody]
    settings["newcomers"] = [one.month for one in config.newcomers]
    # The record is kept by the first villager's model unless another is named.
    settings |= {"prompts": start["prompts"], "stretto": start["stretto"]}
    return About(
        config.scenario, _counted(models[name] for name in config.names), _hash(settings),
        _hash(start["prompts"]), start["stretto"], json.loads(json.dumps(settings)),
    )  # fmt: skip


def _sweep(folder: Path) -> Table:
    planned = sweeps.load(folder)[1]
    rows, remarks = [], []
    for one, metrics in sweeps.results(folder):
        record = sweeps.run_folder(folder, one.id)
        row = row_of_events(read_events(record), one.id, one.condition)
        if (row.strict, row.legacy) != (values(metrics["strict"]), values(metrics["legacy"])):
            remarks.append(f"{one.id}: metrics.json does not fit the record, which counts here.")
        rows.append(row)
    if not rows:
        raise InputError(f"{folder}: none of its {len(planned)} runs is finished; run or resume it")
    if len(rows) < len(planned):
        gone = len(planned) - len(rows)
        remarks.insert(0, f"{gone} of {len(planned)} planned runs are not finished and missing.")
    return Table(folder.resolve().name, tuple(rows), tuple(remarks))


def _counted(names: Iterable[str]) -> str:
    runs: list[list[Any]] = []
    for name in names:
        if runs and runs[-1][1] == name:
            runs[-1][0] += 1
        else:
            runs.append([1, name])
    if len(runs) == 1:
        return str(runs[0][1])
    return ", ".join(f"{count} x {name}" for count, name in runs)


def _hash(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _name(path: Path) -> str:
    return path.resolve().parent.name if path.is_file() else path.resolve().name


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
