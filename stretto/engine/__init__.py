"""Live decoding of stream tables. Names load lazily: importing this costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Engine": "stretto.engine.engine",
    "Grammar": "stretto.engine.grammar",
    "Limits": "stretto.engine.params",
    "Row": "stretto.engine.writer",
    "SamplingParams": "stretto.engine.params",
    "Session": "stretto.engine.session",
    "Speculation": "stretto.engine.speculation",
    "VirtualClock": "stretto.engine.clock",
    "WallClock": "stretto.engine.clock",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from stretto.engine.clock import VirtualClock, WallClock
    from stretto.engine.engine import Engine
    from stretto.engine.grammar import Grammar
    from stretto.engine.params import Limits, SamplingParams
    from stretto.engine.session import Session
    from stretto.engine.speculation import Speculation
    from stretto.engine.writer import Row


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'stretto.engine' has no attribute {name!r}")
