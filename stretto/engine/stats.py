"""What an engine is doing, for tests, logs and whoever watches a server."""

from dataclasses import dataclass


@dataclass
class Drafted:
    """How drafts of one kind have fared.

    Attributes:
        rows: that were drafted and read.
        true: that came true. Over ``rows``: the acceptance rate a draft, as papers give it.
        tested: that were come to, as those before them came true; ``true`` over it is the
            conditional acceptance rate.
        passes: that read some.
    """

    rows: int = 0
    true: int = 0
    tested: int = 0
    passes: int = 0


@dataclass(frozen=True)
class Stats:
    """Counts at one moment.

    Attributes:
        active: sessions that hold a line of the cache.
        waiting: sessions that wait for their turn.
        cached_bytes: bytes that cached cells take now.
        max_cache_bytes: bytes that they may take.
        steps: forward passes since the engine was made.
        cells: cells read in them, padding left out.
        prefix_hits: sessions whose prompts began like others', so that the beginning was copied.
        prefix_cells: cells that they did not have to read.
        evictions: sessions that had to go because the cache was full.
        drafted: rows that were drafted, by kind of draft.
    """

    active: int
    waiting: int
    cached_bytes: int
    max_cache_bytes: int
    steps: int
    cells: int
    prefix_hits: int
    prefix_cells: int
    evictions: int
    drafted: dict[str, Drafted]
