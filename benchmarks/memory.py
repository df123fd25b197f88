"""What the process holds, to the byte where the C library says so, and whether it grows.

What the operating system counts swings by megabytes with the arenas of threads and the pages it
takes back. A leak of a kilobyte a session drowns in that; here it does not.
"""

import ctypes
import gc
import statistics
import sys
from collections.abc import Sequence
from itertools import combinations

import psutil

LEAK = 512.0
"""Bytes that a session may leave behind."""
NOISE = 2**19
"""Bytes that come and go whatever sessions do: allocators, the caches of libraries."""
_SMALL = 80
"""Bytes of an object of Python's own allocator, on average."""


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def rss() -> int:
    """Bytes of the process in memory."""
    return psutil.Process().memory_info().rss


def held() -> int:
    """Bytes that were allocated and not freed; ``rss`` where the C library does not say."""
    gc.collect()
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return rss()
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd + _SMALL * sys.getallocatedblocks()


def slope(rests: Sequence[tuple[int, int]]) -> float | None:
    """Bytes that each session left behind: the median slope over all pairs (Theil, Sen).

    Args:
        rests: how many sessions there had been, and the bytes held, whenever all were gone. The
            first half is left out, for libraries still warm up in it.
    """
    warm = rests[len(rests) // 2 :]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(warm, 2) if b[0] > a[0]]
    return statistics.median(slopes) if len(warm) >= 3 else None


def is_leak(rests: Sequence[tuple[int, int]], slope: float, noise: int = NOISE) -> bool:
    """Whether a slope is too steep, and came to more than noise."""
    sessions = rests[-1][0] - rests[len(rests) // 2][0]
    return slope > LEAK and slope * sessions > noise
