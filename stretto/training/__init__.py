"""Training of multi-stream models. Names load lazily: importing this costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "TrainConfig": "stretto.training.config",
    "load_recipe": "stretto.training.config",
    "train": "stretto.training.run",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from stretto.training.config import TrainConfig, load_recipe
    from stretto.training.run import train


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'stretto.training' has no attribute {name!r}")
