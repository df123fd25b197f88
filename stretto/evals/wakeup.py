"""When a reading model begins to speak, against when its training data would have let it."""

from collections.abc import Sequence

import numpy as np

from stretto.streams import ABSENT, StreamTable


def wake_ticks(
    table: StreamTable, boundaries: Sequence[int], lag: str, *, needs: int = 0
) -> int | None:
    """Ticks from the first tick in which the answer may begin to the one in which it does.

    The rule of wait-k: step 0 begins no earlier than the tick after the one in which chunk
    ``min(k, n - 1)`` has been read; with ``all``, after the last chunk and ``end``.

    Args:
        table: streams ``user`` and ``answer``.
        boundaries: user tokens up to the end of each of n chunks, increasing.
        lag: ``0``, ``1``... or ``all``.
        needs: chunks that the first step cannot do without; 0 if unknown.

    Returns:
        negative when the answer began too early; None if it or its gate never came.
    """
    user = table.rows[:, table.streams.index("user")]
    answer = table.rows[:, table.streams.index("answer")]
    special = (table.special.silence, table.special.end)
    if lag == "all":
        gate = np.flatnonzero(user == table.special.end)[:1]
    else:
        chunk = min(max(int(lag), needs - 1), len(boundaries) - 1)
        words = np.flatnonzero((user != ABSENT) & (user != table.special.end))
        gate = words[boundaries[chunk] - 1 : boundaries[chunk]]
    ticks = np.flatnonzero(answer != ABSENT)
    spoken = np.flatnonzero(~np.isin(answer[ticks], special))
    if not gate.size or not spoken.size:
        return None
    # The answer has a cell in the last row of every tick: that closes the tick of the gate.
    allowed = int(np.searchsorted(ticks, gate[0])) + 1
    return int(spoken[0]) - allowed
