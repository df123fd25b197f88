"""What a training run is told. Recipes are YAML files of this; unknown keys are errors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stretto.config import Recipes
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
class LayerSkipSettings:
    """Layer dropout and early-exit loss (Elhoushi et al. 2024); as it stands, both are off.

    Exit E is behind E layers of L; the last layer is no exit and always trained.

    Attributes:
        p_max: probability that the last layer is left out for an element of a batch.
        dropout_ramp: over the run ``constant`` (a trained base), or ``exponential`` (from scratch).
        e_scale: weight of early exits beside the last layer, 0 to 1; 0 trains the last layer only.
        curriculum: which exits are on at a step: ``rotational``, ``gradual`` or ``all``.
        rotation: R of ``rotational``, every R-th of the exits is on; by default as many as there
            are (L - 1 where all are trained), so one a step.
        exits: the exits that are trained; by default all, 1 to L - 1.
        exit_tokens: share of the cells that early exits are scored on, drawn at random.
        report: exits whose held-out loss is reported; by default those trained, or every quarter
            of the layers where all are.
    """

    p_max: float = 0.0
    dropout_ramp: Literal["constant", "exponential"] = "constant"
    e_scale: float = 0.0
    curriculum: Literal["rotational", "gradual", "all"] = "rotational"
    rotation: int | None = None
    exits: tuple[int, ...] = ()
    exit_tokens: float = 1.0
    report: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.p_max <= 1:
            raise ConfigError(f"layerskip.p_max: between 0 and 1, got {self.p_max}")
        if not 0 <= self.e_scale <= 1:
            raise ConfigError(f"layerskip.e_scale: between 0 and 1, got {self.e_scale}")
        if not 0 < self.exit_tokens <= 1:
            raise ConfigError(f"layerskip.exit_tokens: above 0, up to 1, got {self.exit_tokens}")
        if self.rotation is not None and self.rotation < 1:
            raise ConfigError(f"layerskip.rotation: must be at least 1, got {self.rotation}")
        for name in ("exits", "report"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"layerskip.{name}: an exit is given twice; keep one")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        data: shipped data recipe or folder of built shards.
        base: model to tune.
        init: where its weights come from: ``pretrained``, or ``random`` to train the base's
            architecture from scratch (``tune: full`` only).
        mask_rule: ``inclusive`` or ``strict``; stored in the checkpoint.
        tune: ``lora`` or ``full`` (stream and special vectors are trained either way).
        layerskip: layer dropout and early-exit loss.
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
    init: Literal["pretrained", "random"] = "pretrained"
    mask_rule: Literal["inclusive", "strict"] = "inclusive"
    tune: Literal["lora", "full"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    layerskip: LayerSkipSettings = field(default_factory=LayerSkipSettings)
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
        if self.init == "random" and self.tune != "full":
            raise ConfigError("init: random weights need tune: full; adapters alone cannot train")
        if self.holdout < 0:
            raise ConfigError(f"holdout: must not be negative, got {self.holdout}")


_RECIPES = Recipes(TrainConfig, "training", ("stretto.training", "recipes"))


def recipe_names() -> list[str]:
    """Names of the training recipes that ship with stretto."""
    return _RECIPES.names()


def load_recipe(
    name_or_path: str, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> TrainConfig:
    """A shipped recipe by name, or a YAML file; see :meth:`Recipes.load`."""
    return _RECIPES.load(name_or_path, overrides)
