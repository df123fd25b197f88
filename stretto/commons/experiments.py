"""Named experiments, as data: ``experiments/*.yaml``, each a sweep and a line on what it is for.

The seats of a shipped experiment say ``model``, or ``model_a`` and ``model_b``; whoever runs it
says which models these are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from stretto import config
from stretto.commons.model_config import ModelConfig
from stretto.commons.sweep import Sweep
from stretto.errors import ConfigError


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file holds.

    Attributes:
        about: what it compares, in a sentence.
        sweep: its runs.
    """

    about: str
    sweep: Sweep


def names() -> tuple[str, ...]:
    """Of the experiments that are shipped."""
    return tuple(sorted(
        file.name.removesuffix(".yaml") for file in _folder().iterdir()
        if file.name.endswith(".yaml")
    ))  # fmt: skip


def described(name: str) -> Experiment:
    """A shipped experiment, or one's own in a YAML file of the same form.

    Raises:
        ConfigError: there is none, or the file is not as it should be.
    """
    if name in names():
        with resources.as_file(_folder() / f"{name}.yaml") as path:
            return config.load(Experiment, path)
    if name.endswith((".yaml", ".yml")):
        return config.load(Experiment, Path(name))
    raise ConfigError(
        f"experiment {name!r}: there is none; there are {', '.join(names())}, or give a .yaml file"
    )


def experiment(
    name: str,
    *,
    models: Mapping[str, ModelConfig | str] | None = None,
    seeds: int | tuple[int, ...] | None = None,
    run: Mapping[str, Any] | None = None,
) -> Sweep:
    """The sweep of an experiment.

    Args:
        name: of a shipped one, or a YAML file.
        models: which models its seats' names stand for; a text is another seat instead, such as
            ``script:threshold``, ``human`` or ``code:model``.
        seeds: instead of the file's.
        run: settings that replace those of the file's run, such as ``{"scenario": "pasture"}``.

    Raises:
        ConfigError: there is none, or it has no seats of a name in ``models``.
    """
    sweep = described(name).sweep
    models = dict(models or {})
    seated = _seated([sweep.run, sweep.conditions, sweep.factors])
    if unknown := [one for one in models if one not in seated]:
        raise ConfigError(
            f"experiment {name!r}: no seat is {', '.join(unknown)}; its seats are "
            f"{', '.join(sorted(seated))}"
        )
    sweep = with_models(sweep, models)
    return replace(
        sweep, run={**sweep.run, **(run or {})}, seeds=sweep.seeds if seeds is None else seeds
    )


def with_models(sweep: Sweep, models: Mapping[str, ModelConfig | str]) -> Sweep:
    """A sweep whose seats' names stand for other models, or whose seats are others'."""
    instead = {one: other for one, other in models.items() if isinstance(other, str)}
    opened = {one: other for one, other in models.items() if isinstance(other, ModelConfig)}
    return replace(
        sweep,
        run=_swapped(sweep.run, instead),
        conditions=_swapped(sweep.conditions, instead),
        factors=_swapped(sweep.factors, instead),
        models={**sweep.models, **opened},
    )


def _folder() -> Any:
    return resources.files("stretto.commons") / "experiments"


def _seated(settings: Any) -> set[str]:
    """Names of models in all seats of some settings: those of mappings under ``model``."""
    if isinstance(settings, Mapping):
        own = {settings["model"]} if isinstance(settings.get("model"), str) else set()
        return own.union(*(_seated(value) for value in settings.values()))
    if isinstance(settings, list | tuple):
        return set().union(*map(_seated, settings))
    return set()


def _swapped(settings: Any, instead: Mapping[str, str]) -> Any:
    if isinstance(settings, Mapping):
        return {
            key: instead.get(value, value)
            if key == "model" and isinstance(value, str)
            else _swapped(value, instead)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [_swapped(value, instead) for value in settings]
    return settings
