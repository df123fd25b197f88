"""What runs the forward passes. A new back end is one file that passes ``engine.testing``."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stretto.models import MultiStreamLM

BACKENDS = ("transformers", "cpu", "prepacked", "cuda")
PRECISIONS = {
    "cpu": ("float32", "bfloat16", "int8"),
    "prepacked": ("float32", "bfloat16"),
    "cuda": ("float32", "bfloat16", "float16"),
}
"""What a back end can be told to compute in; others keep to the model's own dtype."""


class Backend(Protocol):
    """Cache lines and forward passes.

    What a line holds is decided by the cells read: all but silence and padding, in tables whose
    rows are positions.
    """

    def open(self) -> int:
        """Give an empty cache line."""
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
    if kind == "cuda" and not _has_cuda():
        raise ConfigError(f"backend {name!r} needs an NVIDIA GPU and a torch that finds it; "
                          "choose auto")  # fmt: skip
    return kind, precision or None


def open_backend(name: str, lm: "MultiStreamLM") -> Backend:
    """A back end by name.

    ``auto`` is ``cuda`` for a model of the Llama family on a GPU. Otherwise it is
    ``transformers`` until another is shown to be faster.

    Args:
        name: ``auto`` or one of ``BACKENDS``. ``cpu``, ``prepacked`` and ``cuda`` take a precision
            behind a colon, as in ``cpu:int8``; without, they compute in the model's own dtype.
        lm: the model.

    Raises:
        ConfigError: no such back end or precision, its package is missing, or the model is none
            that it can run.
    """
    kind, precision = check_name(name)
    if kind == "cpu":
        from stretto.engine.backends.cpu import CpuBackend

        return CpuBackend(lm, precision)
    if kind == "prepacked":
        from stretto.engine.backends.prepacked import PrepackedBackend

        return PrepackedBackend(lm, precision)
    if kind in ("auto", "cuda") and _has_cuda():
        from stretto.engine.backends.cuda import CudaBackend, can_run

        if kind == "cuda" or can_run(lm):
            return CudaBackend(lm, precision)
    from stretto.engine.backends.transformers import TransformersBackend

    return TransformersBackend(lm)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
