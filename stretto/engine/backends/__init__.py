"""What runs the forward passes. A new back end is one file that passes ``engine.testing``."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stretto.models import MultiStreamLM

BACKENDS = ("transformers", "native", "cpu", "prepacked", "llamacpp", "cuda")
PRECISIONS = {
    "native": ("float32", "bfloat16", "int8"),
    "cpu": ("float32", "bfloat16", "int8"),
    "prepacked": ("float32", "bfloat16"),
    "llamacpp": ("float32", "bfloat16", "q8_0", "q4_0"),
    "cuda": ("float32", "bfloat16", "float16"),
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
        """Give an empty cache line.

        Raises:
            LimitError: it has no more.
        """
        ...

    def fork(self, line: int, cells: int) -> int:
        """Give a new line that holds the first ``cells`` cells of another; each goes its own way.

        Args:
            line: the other, which may be released before or after the new one.
            cells: visible cells in the order in which they were read; no more than it holds.

        Raises:
            LimitError: there are no more lines.
        """
        ...

    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first ``cells`` cells of a line; forks of it keep theirs.

        Args:
            line: whose.
            cells: visible cells in the order in which they were read; no more than it holds.
        """
        ...

    def release(self, line: int) -> None:
        """Take a line back; what it held is forgotten."""
        ...

    def forward(self, batch: RowBatch) -> "Tensor":
        """Read the cells; logits of the queries (N, V + 2), on the back end's device.

        They are the caller's to change, and may be overwritten by the next pass.
        """
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
    if reason := _missing(kind):
        raise ConfigError(f"backend {name!r} {reason}")
    return kind, precision or None


def open_backend(name: str, lm: "MultiStreamLM") -> Backend:
    """A back end by name.

    ``auto`` is ``native`` in the model's own dtype where it was compiled and can run the model,
    else ``transformers``; so nothing is rounded that the model does not round.

    Args:
        name: ``auto`` or one of ``BACKENDS``. All but ``transformers`` take a precision behind a
            colon, as in ``native:int8``; without, they compute in the model's own dtype.
        lm: the model.

    Raises:
        ConfigError: no such back end or precision, its package is missing, or the model is none
            that it can run.
    """
    kind, precision = check_name(name)
    if kind == "auto":
        kind = "native" if _is_native(lm) else "transformers"
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
    if kind == "cuda":
        from stretto.engine.backends.cuda import CudaBackend

        return CudaBackend(lm, precision)
    from stretto.engine.backends.transformers import TransformersBackend

    return TransformersBackend(lm)


def _missing(kind: str) -> str | None:
    """What a back end lacks on this machine, as the end of a sentence; None if nothing."""
    if kind == "native":
        from stretto.engine.backends.native.library import why_not

        return why_not()
    if kind == "cpu" and find_spec("openvino") is None:
        return "needs OpenVINO: pip install 'stretto[cpu]'"
    if kind == "llamacpp" and find_spec("llama_cpp") is None:
        return "needs llama-cpp-python: pip install 'stretto[llamacpp]'"
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "needs an NVIDIA GPU and a torch that finds it; choose auto"
    return None


def _is_native(lm: "MultiStreamLM") -> bool:
    from stretto.models.family import has_dynamic_rope, why_not

    if why_not(lm) is not None or has_dynamic_rope(lm):
        return False
    dtype = str(lm.base.dtype).removeprefix("torch.")
    fits = lm.device.type == "cpu" and dtype in PRECISIONS["native"]
    return fits and _missing("native") is None
