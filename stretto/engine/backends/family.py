"""What back ends share that compute the Llama family by themselves: weights and cache lines."""

from stretto.engine.backends import PRECISIONS
from stretto.engine.backends.lines import Lines
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder


class FamilyBackend:
    """Cache lines in plain memory, behind a decoder that a subclass computes.

    Args:
        lm: a model of the Llama family, on the CPU.
        name: the back end's, in ``PRECISIONS``.
        precision: one of its; None is the model's own dtype.

    Attributes:
        precision: what it computes in.

    Raises:
        ConfigError: a model of another family, on another device, or an unknown precision.
    """

    def __init__(self, lm: MultiStreamLM, name: str, precision: str | None) -> None:
        self.precision = checked_precision(lm, name, precision)
        self._decoder = FamilyDecoder(lm)
        self._lines = Lines(self._decoder, lm.mask_rule, lm.special.silence)

    @property
    def cell_bytes(self) -> int:
        """Bytes that one cached cell takes."""
        return self._lines.cell_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that live sessions hold."""
        return self._lines.nbytes

    def open(self) -> int:
        """Give an empty cache line."""
        return self._lines.open()

    def fork(self, line: int, cells: int) -> int:
        """Give a new line that holds the first ``cells`` cells of another."""
        return self._lines.fork(line, cells)

    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first ``cells`` cells of a line."""
        self._lines.crop(line, cells)

    def release(self, line: int) -> None:
        """Take a line back; when none is left in use the memory is given back too."""
        self._lines.release(line)


def checked_precision(lm: MultiStreamLM, name: str, precision: str | None) -> str:
    """What a back end is to compute in; None is the model's own dtype.

    Raises:
        ConfigError: it cannot, or the model is not on the CPU.
    """
    precision = precision or str(lm.base.dtype).removeprefix("torch.")
    if precision not in PRECISIONS[name]:
        known = ", ".join(PRECISIONS[name])
        raise ConfigError(f"backend {name} in {precision}: choose from {known}")
    if lm.device.type != "cpu":
        raise ConfigError(f"backend {name}: the model is on {lm.device}; load it with device cpu")
    return precision
