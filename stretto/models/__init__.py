"""A Hugging Face decoder that reads tables. Names load lazily: importing this costs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "LMOutput": "stretto.models.wrapper",
    "MultiStreamLM": "stretto.models.wrapper",
    "StreamBatch": "stretto.models.batch",
    "StreamCache": "stretto.models.cache",
    "load_codec": "stretto.models.checkpoint",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from stretto.models.batch import StreamBatch
    from stretto.models.cache import StreamCache
    from stretto.models.checkpoint import load_codec
    from stretto.models.wrapper import LMOutput, MultiStreamLM


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'stretto.models' has no attribute {name!r}")
