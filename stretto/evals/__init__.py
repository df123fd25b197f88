"""One file per question asked of a model. Names load lazily: importing this costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "EfficiencyConfig": "stretto.evals.config",
    "render_report": "stretto.evals.report",
    "run_efficiency": "stretto.evals.efficiency",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from stretto.evals.config import EfficiencyConfig
    from stretto.evals.efficiency import run_efficiency
    from stretto.evals.report import render_report


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'stretto.evals' has no attribute {name!r}")
