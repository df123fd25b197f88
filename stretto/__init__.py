"""stretto: language models that read, think, speak and act in parallel token streams."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "Stream": "stretto.streams",
    "StreamSet": "stretto.streams",
    "StreamTable": "stretto.streams",
    "MultiStreamLM": "stretto.models",
    "Engine": "stretto.engine",
    "SamplingParams": "stretto.engine",
    "Limits": "stretto.engine",
}
__all__ = ["__version__", *_LAZY]

if TYPE_CHECKING:
    from stretto.engine import Engine, Limits, SamplingParams
    from stretto.models import MultiStreamLM
    from stretto.streams import Stream, StreamSet, StreamTable


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'stretto' has no attribute {name!r}")
