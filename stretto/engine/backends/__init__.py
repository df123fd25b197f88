"""What runs the forward passes. A new back end is one file that passes ``engine.testing``."""

from typing import TYPE_CHECKING, Protocol

from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stretto.models import MultiStreamLM

BACKENDS = ("transformers",)


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


def open_backend(name: str, lm: "MultiStreamLM") -> Backend:
    """A back end by name; ``auto`` is the best there is for this model.

    Raises:
        ConfigError: no such back end.
    """
    if name in ("auto", "transformers"):
        from stretto.engine.backends.transformers import TransformersBackend

        return TransformersBackend(lm)
    raise ConfigError(f"backend {name!r}: choose from auto, {', '.join(BACKENDS)}")
