"""Fill sequences of fixed length with whole samples."""

from collections.abc import Sequence

import numpy as np

_WINDOW = 512


def pack(
    lengths: Sequence[int], max_cells: int, *, seed: int = 0, window: int = _WINDOW
) -> list[list[int]]:
    """Group samples so that each group has at most ``max_cells`` cells; none is ever split.

    Samples are shuffled; within each window of them the longest are placed first, each into the
    fullest group that still has room (best fit decreasing). So a group is a random mixture, and
    few cells are left empty. Samples longer than ``max_cells`` are left out
    (see :func:`num_too_long`). The result depends on the arguments only.

    Args:
        lengths: cells of each sample.
        max_cells: length of a packed sequence.
        seed: of the shuffle.
        window: samples that are packed together.

    Returns:
        indices of the samples of each group.
    """
    order = np.random.default_rng(seed).permutation(len(lengths)).tolist()
    order = [i for i in order if lengths[i] <= max_cells]
    groups: list[list[int]] = []
    for start in range(0, len(order), window):
        groups += _best_fit(order[start : start + window], lengths, max_cells)
    return groups


def num_too_long(lengths: Sequence[int], max_cells: int) -> int:
    """How many samples :func:`pack` leaves out."""
    return sum(length > max_cells for length in lengths)


def _best_fit(indices: Sequence[int], lengths: Sequence[int], max_cells: int) -> list[list[int]]:
    groups: list[list[int]] = []
    room: list[int] = []
    for i in sorted(indices, key=lambda i: -lengths[i]):
        fitting = [g for g, left in enumerate(room) if left >= lengths[i]]
        if fitting:
            best = min(fitting, key=lambda g: room[g])
            groups[best].append(i)
            room[best] -= lengths[i]
        else:
            groups.append([i])
            room.append(max_cells - lengths[i])
    return groups
