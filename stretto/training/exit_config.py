"""What the training of exit heads is told. Recipes are YAML files of this."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stretto.config import Recipes
from stretto.errors import ConfigError


@dataclass(frozen=True)
class AnswerSettings:
    """The model's own answers to requests from open data sets.

    Attributes:
        requests: how many.
        max_tokens: of an answer.
        max_prompt: tokens; longer requests are left out.
        sampled: share of answers at temperature 0.7; the others are greedy.
        backend: of the engine that answers.
    """

    requests: int = 1536
    max_tokens: int = 160
    max_prompt: int = 256
    sampled: float = 0.2
    backend: str = "native:int8"


@dataclass(frozen=True)
class ExitConfig:
    """Exit heads for a model that stays as it is.

    Attributes:
        base: the model: a base model, or a checkpoint with streams.
        answers: for a base model: what it is to answer.
        tables: for a checkpoint: shipped data recipe or folder of built shards.
        max_cells: of the tables that are read; the rest is left out.
        layers: where the model can be left.
        inner: inner size of a head's adapter; 0 for none.
        shortlist: how many tokens a head can name.
        passes: over the training states.
        batch: states an optimiser step.
        learning_rate: of AdamW, after a linear warm-up; then a cosine to a twentieth of it.
        top_weight: weight of the cross-entropy to the model's likeliest token, beside the
            divergence from all it would say.
        held_out: share of samples that are not trained on.
        pack_cells: cells a forward pass when states are collected; longer samples are dropped.
        dtype: of that pass, ``bfloat16`` or ``float32``.
        save_every: in optimiser steps.
        seed: of answers, order and initialisation.
    """

    base: str
    answers: AnswerSettings | None = None
    tables: str | None = None
    max_cells: int = 200_000
    layers: tuple[int, ...] = (4, 6, 8)
    inner: int = 576
    shortlist: int = 8192
    passes: int = 2
    batch: int = 256
    learning_rate: float = 6e-3
    top_weight: float = 0.5
    held_out: float = 0.1
    pack_cells: int = 768
    dtype: str = "bfloat16"
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.answers is None) == (self.tables is None):
            raise ConfigError("give either answers (a base model) or tables (a checkpoint)")
        for name in ("max_cells", "passes", "batch", "pack_cells", "save_every", "shortlist"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.layers or sorted(set(self.layers)) != list(self.layers) or self.layers[0] < 1:
            raise ConfigError(f"layers: rising numbers from 1 on, got {list(self.layers)}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out: above 0, below 1, got {self.held_out}")


_RECIPES = Recipes(ExitConfig, "exit", ("stretto.training", "exit_recipes"))


def exit_recipe_names() -> list[str]:
    """Names of the recipes for exit heads that ship with stretto."""
    return _RECIPES.names()


def load_exit_recipe(
    name_or_path: str, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> ExitConfig:
    """A shipped recipe by name, or a YAML file; see :meth:`Recipes.load`."""
    return _RECIPES.load(name_or_path, overrides)
