"""What an engine is doing, for tests, logs and whoever watches a server."""

from dataclasses import dataclass


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
