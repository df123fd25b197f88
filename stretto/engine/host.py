"""What a session knows of its engine."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Protocol

from stretto.engine.writer import Row

if TYPE_CHECKING:
    from stretto.engine.session import Session


class Host(Protocol):
    """What a session asks of its engine."""

    def iterate(self, session: "Session") -> Iterator[Row]:
        """Rows, stepping while there is none."""
        ...

    def iterate_async(self, session: "Session") -> AsyncIterator[Row]:
        """Rows as a background task makes them."""
        ...

    def attach(self, session: "Session") -> None:
        """Serve it in the background."""
        ...

    def changed(self, session: "Session") -> None:
        """It was sent something, closed or cancelled."""
        ...

    def fork(self, session: "Session", seed: int | None = None) -> "Session":
        """A session with the same past."""
        ...
