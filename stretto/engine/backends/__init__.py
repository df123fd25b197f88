"""What runs the forward passes. A new back end is one file that passes ``engine.testing``."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stretto.models import MultiStreamLM

BACKENDS = ("transformers", "native", "cpu", "prepacked", "llamacpp")
PRECISIONS = {
    "native": ("float32", "bfloat16", "int8"),
    "cpu": ("float32", "bfloat16", "int8"),
    "prepacked": ("float32", "bfloat16"),
    "llamacpp": ("float32", "bfloat16", "q8_0", "q4_0"),
}
"""What a back end can be told to compute in; others keep to the model's own dtype."""


class Backend(Protocol):
    """Cache lines and forward passes.

    What a line holds is decided by the cells read: all but silence and padding, in tables whose
    rows are positions.
    """

    @property
    def cell_bytes(self) -> int:
        """Bytes that one cached cell takes: keys and values of all layers."""
        ...

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cached cells of all lines take now; shared cells count once."""
        ...

    def open(self) -> int:
        """Give an empty cache line."""
        ...

    def fork(self, line: int, cells: int) -> int:
        """Give a new line that holds the first ``cells`` cells of another; each goes its own way.

        Args:
            line: the other, which may be released before or after the new one.
            cells: visible cells in the order in which they were read; no more than it holds.
        """
        ...

    def release(self, line: int) -> None:
        """Take a line back; what it held is forgotten."""
        ...

    def forward(self, batch: RowBatch) -> "Tensor":
        """Read the cells; logits of the queries (N, V + 2), on the back end's device."""
        ...


def check_name(name: str) -> tuple[str, str | None]:
    """Kind and precision of a back end by its name, before any model is loaded.

    Raises:
        ConfigError: no such back end, a precision where there is no choice, or a missing package.
    """
    kind, colon, precision = name.partition(":")
    if kind not in ("auto", *BACKENDS):
        raise ConfigError(f"backend {name!r}: choose from auto, {', '.join(BACKENDS)}")
    known = PRECISIONS.get(kind, ())
    if colon and precision not in known:
        choices = ", ".join([kind, *(f"{kind}:{p}" for p in known)])
        raise ConfigError(f"backend {name!r}: no such precision; choose from {choices}")
    if kind == "cpu" and find_spec("openvino") is None:
        raise ConfigError(f"backend {name!r} needs OpenVINO: pip install 'stretto[cpu]'")
    if kind == "llamacpp" and find_spec("llama_cpp") is None:
        raise ConfigError(
            f"backend {name!r} needs llama-cpp-python: pip install 'stretto[llamacpp]'"
        )
    return kind, precision or None


def open_backend(name: str, lm: "MultiStreamLM") -> Backend:
    """A back end by name; ``auto`` is ``transformers`` until another is shown to be faster.

    Args:
        name: ``auto`` or one of ``BACKENDS``. All but ``transformers`` take a precision behind a
            colon, as in ``cpu:int8``; without, they compute in the model's own dtype.
        lm: the model.

    Raises:
        ConfigError: no such back end or precision, its package is missing, or the model is none
            that it can run.
    """
    kind, precision = check_name(name)
    if kind == "cpu":
        from stretto.engine.backends.cpu import CpuBackend

        return CpuBackend(lm, precision)
    if kind == "native":
        from stretto.engine.backends.native import NativeBackend

        return NativeBackend(lm, precision)
    if kind == "prepacked":
        from stretto.engine.backends.prepacked import PrepackedBackend

        return PrepackedBackend(lm, precision)
    if kind == "llamacpp":
        from stretto.engine.backends.llamacpp import LlamaCppBackend

        return LlamaCppBackend(lm, precision)
    from stretto.engine.backends.transformers import TransformersBackend

    return TransformersBackend(lm)
