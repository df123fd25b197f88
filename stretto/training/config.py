"""What a training run is told. Recipes are YAML files of this; unknown keys are errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from stretto.config import load
from stretto.errors import ConfigError


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on every linear layer of the base, through PEFT.

    Attributes:
        rank: inner dimension.
        alpha: scale; the update is multiplied by alpha / rank.
    """

    rank: int = 16
    alpha: int = 32


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW and its schedule (linear warm-up, then cosine to ``final_fraction``).

    Attributes:
        learning_rate: of base or adapter weights.
        vector_learning_rate: of stream vectors and of silence's and end's vectors.
        warmup_steps: optimiser steps.
        final_fraction: of the peak learning rate, at the last step.
        weight_decay: on matrices; vectors have none.
        max_grad_norm: clipping.
        betas: of AdamW.
    """

    learning_rate: float = 5e-4
    vector_learning_rate: float = 2e-3
    warmup_steps: int = 20
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: shipped data recipe or folder of built shards.
        base: model to tune.
        mask_rule: ``inclusive`` or ``strict``; stored in the checkpoint.
        tune: ``lora`` or ``full`` (stream and special vectors are trained either way).
        silence_weight: weight of the mean silence loss beside the mean content loss; below 1,
            or the many easy silences drown the words (reference section 3.2).
        steps: optimiser steps.
        pack_cells: length of a packed sequence, in cells; longer samples are dropped.
        packs_per_batch: packed sequences a forward pass.
        accumulate: forward passes an optimiser step.
        dtype: of the forward pass, ``bfloat16`` or ``float32``.
        gradient_checkpointing: recompute activations to save memory.
        holdout: samples kept for evaluation.
        log_every, eval_every, save_every: in optimiser steps.
        seed: of order and initialisation.
    """

    data: str
    base: str = "smollm2-135m"
    mask_rule: Literal["inclusive", "strict"] = "inclusive"
    tune: Literal["lora", "full"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    silence_weight: float = 0.2
    steps: int = 400
    pack_cells: int = 768
    packs_per_batch: int = 2
    accumulate: int = 1
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    gradient_checkpointing: bool = False
    holdout: int = 64
    log_every: int = 5
    eval_every: int = 100
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "pack_cells", "packs_per_batch", "accumulate", "log_every")
        for name in (*counts, "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.silence_weight <= 1:
            raise ConfigError(f"silence_weight: between 0 and 1, got {self.silence_weight}")
        if self.holdout < 0:
            raise ConfigError(f"holdout: must not be negative, got {self.holdout}")


def recipe_names() -> list[str]:
    """Names of the training recipes that ship with stretto."""
    folder = files("stretto.training") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir())


def load_recipe(
    name_or_path: str, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> TrainConfig:
    """A shipped recipe by name, or a YAML file.

    Raises:
        ConfigError: there is none, or it has an unknown key or a bad value.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in recipe_names():
            raise ConfigError(
                f"no training recipe {name_or_path!r}; choose from {', '.join(recipe_names())}, "
                "or give a .yaml file"
            )
        path = Path(str(files("stretto.training") / "recipes" / f"{name_or_path}.yaml"))
    return load(TrainConfig, path, overrides=overrides)
