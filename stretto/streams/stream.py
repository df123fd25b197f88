"""A stream is a named column with one direction; a stream set is an ordered tuple of streams."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

from stretto.errors import InputError

Direction = Literal["input", "output"]


@dataclass(frozen=True)
class Stream:
    """One named column of a table.

    Attributes:
        name: lower-case identifier, unique in its set.
        direction: ``input`` streams are injected, ``output`` streams are sampled.
        prompt_only: all its text is known at the start; it takes no part in live rows.
        visible: whether people see it by default (``think`` is not).
        trusted: whether its text may carry instructions (``user`` and ``system``, not ``result``).
    """

    name: str
    direction: Direction
    prompt_only: bool = False
    visible: bool = True
    trusted: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise InputError(f"stream name {self.name!r}: use a lower-case identifier")
        if self.direction not in ("input", "output"):
            raise InputError(
                f"stream {self.name!r}: direction is 'input' or 'output', not {self.direction!r}"
            )
        if self.prompt_only and self.direction == "output":
            raise InputError(f"stream {self.name!r}: an output stream cannot be prompt_only")


class StreamSet(Sequence[Stream]):
    """Streams in order, found by index or by name. Part of every table and checkpoint."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = tuple(streams)
        self._index = {stream.name: i for i, stream in enumerate(self._streams)}
        if not self._streams:
            raise InputError("a stream set needs at least one stream")
        if len(self._index) < len(self._streams):
            names = [stream.name for stream in self._streams]
            raise InputError(f"stream names must be unique, got {names}")

    @overload
    def __getitem__(self, key: int | str) -> Stream: ...
    @overload
    def __getitem__(self, key: slice) -> "StreamSet": ...
    def __getitem__(self, key: int | str | slice) -> "Stream | StreamSet":
        if isinstance(key, slice):
            return StreamSet(self._streams[key])
        return self._streams[self.index(key) if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams)

    def __contains__(self, item: object) -> bool:
        return item in self._index or item in self._streams

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamSet) and self._streams == other._streams

    def __hash__(self) -> int:
        return hash(self._streams)

    def __repr__(self) -> str:
        arrows = {"input": ">", "output": "<"}
        return f"StreamSet({', '.join(s.name + arrows[s.direction] for s in self)})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(self._index)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Indices of the input streams."""
        return tuple(i for i, s in enumerate(self._streams) if s.direction == "input")

    @property
    def outputs(self) -> tuple[int, ...]:
        """Indices of the output streams."""
        return tuple(i for i, s in enumerate(self._streams) if s.direction == "output")

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Index of a stream, by name or by value.

        Raises:
            InputError: no such stream in this set.
        """
        name = value.name if isinstance(value, Stream) else value
        if name not in self._index:
            raise InputError(f"no stream {name!r} here; this set has {', '.join(self.names)}")
        return self._index[name]

    def to_list(self) -> list[dict[str, Any]]:
        """Plain data, for JSON."""
        return [asdict(stream) for stream in self._streams]

    @classmethod
    def from_list(cls, data: Sequence[dict[str, Any]]) -> "StreamSet":
        """Inverse of :meth:`to_list`.

        Raises:
            InputError: a field is missing or unknown.
        """
        try:
            return cls([Stream(**fields) for fields in data])
        except TypeError as error:
            raise InputError(f"stream set: {error}") from None
