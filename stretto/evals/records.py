"""What one item in one condition gave, and how an answer that waits is placed in time."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from stretto.errors import InputError

ANY_RATE = "any"
"""Rate of a record whose answer does not depend on arrival; ``placed`` gives it one."""

INSTANT = "instant"


def parse_rate(text: str) -> float | None:
    """Tokens per second; None for ``instant``.

    Raises:
        InputError: neither ``instant`` nor a positive number.
    """
    if text == INSTANT:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise InputError(f"rate {text!r}: use 'instant' or tokens per second, such as 20")
    return rate


def arrival_end(tokens: int, rate: str) -> float:
    """Seconds from the first moment to the arrival of the last of ``tokens`` input tokens.

    The first token is there at once, the others follow at the rate.
    """
    per_second = parse_rate(rate)
    return 0.0 if per_second is None else max(0, tokens - 1) / per_second


@dataclass(frozen=True)
class Record:
    """One item answered by one system. Rows and seconds count from the session's opening.

    Attributes:
        system, task, item: what was asked of whom.
        rate: ``instant``, tokens per second, or ``any`` (the system waits for the whole input).
        lag: the dial in the answer's prompt; empty where the system has none.
        correct: graded right.
        answered: whether a final answer was found at all.
        predicted: the answer found, canonical; empty if none.
        text: the whole answer.
        finish: why the session ended.
        input_tokens: tokens of the user's text (without markup and ``end``).
        output_tokens: content tokens of the answer.
        input_end_row: row in which the end of the input was read; -1: before the first live row.
        first_row, last_row: first and last content row of the answer; None without content.
        input_end_s: when the last input token arrived.
        first_s, last_s: when first and last token of the answer were known.
        total_s: when the session ended.
        rows: live rows.
        wake_ticks: first content tick minus the first tick the alignment allows; None if unknown.
    """

    system: str
    task: str
    item: str
    rate: str
    lag: str
    correct: bool
    answered: bool
    predicted: str
    text: str
    finish: str
    input_tokens: int
    output_tokens: int
    input_end_row: int
    first_row: int | None
    last_row: int | None
    input_end_s: float
    first_s: float | None
    last_s: float | None
    total_s: float
    rows: int
    wake_ticks: int | None = None

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What makes a record unique in a run."""
        return self.system, self.task, self.rate, self.lag, self.item

    def placed(self, rate: str) -> "Record":
        """An ``any`` record with its input arriving at ``rate``: it starts when all is there."""
        if self.rate != ANY_RATE:
            return self
        shift = arrival_end(self.input_tokens, rate)
        return replace(
            self,
            rate=rate,
            input_end_s=shift,
            first_s=None if self.first_s is None else self.first_s + shift,
            last_s=None if self.last_s is None else self.last_s + shift,
            total_s=self.total_s + shift,
        )

    @property
    def ttft_s(self) -> float:
        """Seconds from end of input to first token, 0 if it came before; no token: to the end."""
        return max(0.0, (self.total_s if self.first_s is None else self.first_s) - self.input_end_s)

    @property
    def ttft_rows(self) -> int:
        """Rows from end of input to first token, 0 if it came before; the next row is 1."""
        first = self.rows if self.first_row is None else self.first_row
        return max(0, first - self.input_end_row)

    @property
    def ttft_start_s(self) -> float:
        """Seconds from the first moment to the first token."""
        return self.total_s if self.first_s is None else self.first_s

    @property
    def delay_s(self) -> float:
        """Seconds from end of input to end of answer, 0 if it ended before."""
        return max(0.0, (self.total_s if self.last_s is None else self.last_s) - self.input_end_s)

    @property
    def delay_rows(self) -> int:
        """Rows from end of input to end of answer, 0 if it ended before."""
        last = self.rows if self.last_row is None else self.last_row
        return max(0, last - self.input_end_row)

    @property
    def end_s(self) -> float:
        """Seconds from the first moment to the end of the answer."""
        return self.total_s if self.last_s is None else self.last_s

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens per second from the first moment to the end of the answer."""
        return self.output_tokens / self.end_s if self.end_s > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for an event."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`; other fields of the event are ignored.

        Raises:
            InputError: a field is missing.
        """
        names = cls.__dataclass_fields__
        try:
            return cls(**{name: data[name] for name in names})
        except KeyError as error:
            raise InputError(f"an item of this run lacks {error}; make the run anew") from None
