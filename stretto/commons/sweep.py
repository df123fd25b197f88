"""Many runs: conditions times seeds, planned first, each played once, whoever is killed when.

A sweep is a folder. ``manifest.json`` names every run before the first is played; a run is done
when its ``metrics.json`` is there. Whoever works on a sweep, in whatever process or machine that
sees the folder, takes the next run that is neither done nor locked by another; the lock goes with
the process that held it. So nothing has to be told of a death, and nothing is counted twice.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stretto import config as configs
from stretto.commons.model_config import ModelConfig
from stretto.commons.run_config import RunConfig
from stretto.errors import ConfigError, InputError
from stretto.runs import atomic_write

VERSION = 1


@dataclass(frozen=True)
class Sweep:
    """A full factorial of conditions, each with the same seeds.

    Attributes:
        run: the run that all have in common, as :class:`RunConfig` is written.
        factors: dotted name of a setting -> its values, such as ``talk: [meeting, none]``.
        conditions: named sets of settings, one after the other, instead of or times the factors.
        seeds: how many, or which.
        models: by the names that seats give.
    """

    run: dict[str, Any]
    factors: dict[str, list[Any]] = field(default_factory=dict)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: int | tuple[int, ...] = 5
    models: dict[str, ModelConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        id: of its condition and seed; the name of its folder.
        condition: what sets it apart, by factor.
        seed: of the run.
        config: all of it.
    """

    id: str
    condition: dict[str, Any]
    seed: int
    config: RunConfig


def plan(sweep: Sweep) -> list[Planned]:
    """Every run, by condition and seed.

    Raises:
        ConfigError: a setting is wrong, or two runs are the same.
    """
    seeds = range(sweep.seeds) if isinstance(sweep.seeds, int) else sweep.seeds
    if not seeds:
        raise ConfigError("seeds: at least one is needed")
    planned: dict[str, Planned] = {}
    for name, settings in (sweep.conditions or {"": {}}).items():
        for values in itertools.product(*sweep.factors.values()):
            factors = dict(zip(sweep.factors, values, strict=True))
            condition = ({"condition": name} if name else {}) | factors
            for seed in seeds:
                raw = deepcopy(sweep.run)
                overrides = {**_flat(settings), **factors, "seed": seed}
                try:
                    run = configs.load(RunConfig, raw, overrides)
                except ConfigError as error:
                    raise ConfigError(f"{condition or 'run'}: {error}") from None
                one = Planned(_id(condition, seed), condition, seed, run)
                if one.id in planned:
                    raise ConfigError(f"two runs are the same: {condition}, seed {seed}")
                planned[one.id] = one
    return list(planned.values())


def read(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """A sweep from a YAML file.

    Args:
        path: of a sweep or an experiment; or of a single run, which may have ``models`` beside its
            settings.
        overrides: settings of the run, or of the sweep, as ``talk=none`` or ``seeds=3``.

    Raises:
        ConfigError: the file cannot be read, or a setting is wrong.
    """
    raw = configs.read(path)
    if "sweep" in raw:  # an experiment's file
        raw = raw["sweep"]
    if "run" not in raw:
        models = raw.pop("models", {})
        raw = {"run": raw, "models": models, "seeds": [raw.get("seed", 0)]}
    return _changed(raw, path.name, overrides)


def change(sweep: Sweep, overrides: Sequence[str]) -> Sweep:
    """A sweep with other settings; see :func:`read`."""
    return _changed(configs.dump(sweep), "sweep", overrides)


def _changed(raw: dict[str, Any], where: str, overrides: Sequence[str]) -> Sweep:
    own = {each.name for each in fields(Sweep)}
    whole = [text if re.split(r"[.=]", text)[0] in own else f"run.{text}" for text in overrides]
    try:
        sweep = configs.load(Sweep, raw, whole)
        plan(sweep)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return sweep


def prepare(sweep: Sweep, folder: Path) -> list[Planned]:
    """Write the manifest, or check that the folder's is of this sweep, or of a part of it.

    Raises:
        InputError: the folder holds another sweep.
    """
    runs = plan(sweep)
    listed = [{"id": one.id, "condition": one.condition, "seed": one.seed} for one in runs]
    manifest = json.loads(json.dumps({"v": VERSION, "sweep": configs.dump(sweep), "runs": listed}))
    path = folder / "manifest.json"
    if not path.exists():
        atomic_write(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return runs
    there = _read(path)
    if not _holds(manifest, there):
        raise InputError(f"{folder}: holds another sweep; take another folder, or resume that one")
    if there != manifest:
        atomic_write(path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return runs


def load(folder: Path) -> tuple[Sweep, list[Planned]]:
    """The sweep of a folder.

    Raises:
        InputError: there is none, or it is of another version.
    """
    sweep = configs.load(Sweep, _read(folder / "manifest.json")["sweep"])
    return sweep, plan(sweep)


def results(folder: Path) -> Iterator[tuple[Planned, dict[str, Any]]]:
    """The runs that are done, with their ``metrics.json``."""
    for one in load(folder)[1]:
        path = run_folder(folder, one.id) / "metrics.json"
        if path.exists():
            yield one, json.loads(path.read_text(encoding="utf-8"))


def run_folder(folder: Path, id: str) -> Path:  # noqa: A002 - the name it has in the manifest
    """Where a run of a sweep is."""
    return folder / "runs" / id


def is_done(folder: Path, id: str) -> bool:  # noqa: A002
    """Whether a run was played to its end."""
    return (run_folder(folder, id) / "metrics.json").exists()


def _holds(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether a sweep has all runs of another; it may have more, and ask elsewhere or faster."""
    one, other = new["sweep"], old["sweep"]
    models = [{name: m["model"] for name, m in each["models"].items()} for each in (one, other)]
    return (
        one["run"] == other["run"]
        and models[0] == models[1]
        and all(one["conditions"].get(key) == value for key, value in other["conditions"].items())
        and {run["id"] for run in old["runs"]} <= {run["id"] for run in new["runs"]}
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: holds no sweep (no {path.name})") from None
    except ValueError:
        raise InputError(f"{path}: is not JSON") from None
    if manifest.get("v") != VERSION:
        raise InputError(f"{path}: version {manifest.get('v')}; this stretto reads {VERSION}")
    return manifest


def _id(condition: Mapping[str, Any], seed: int) -> str:
    text = json.dumps(condition, sort_keys=True, default=asdict)
    words = "-".join(str(value) for value in condition.values())
    slug = "".join(c if c.isalnum() or c in "._-" else "-" for c in words)[:60].strip("-.")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{slug or 'run'}-{digest}-seed{seed}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, so that one of a group leaves the others as they are."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and key in ("rules", "switches", "growth"):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
