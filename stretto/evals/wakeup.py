"""When a reading model begins to speak, against when its training data would have let it."""

import numpy as np

from stretto.streams import ABSENT, StreamTable


def wake_ticks(table: StreamTable, needed: int | None) -> int | None:
    """Ticks from the first tick in which the answer may begin to the one in which it does.

    The first step may begin in the tick after the one in which what it waits for has been read.

    Args:
        table: has the streams ``user`` and ``answer``.
        needed: how many user tokens it waits for; None for the user's ``end``.

    Returns:
        negative when the answer began too early; None if it or its gate never came.
    """
    user = table.rows[:, table.streams.index("user")]
    answer = table.rows[:, table.streams.index("answer")]
    special = (table.special.silence, table.special.end)
    if needed is None:
        gate = np.flatnonzero(user == table.special.end)[:1]
    else:
        words = np.flatnonzero((user != ABSENT) & (user != table.special.end))
        gate = words[max(0, needed - 1) : needed]
    ticks = np.flatnonzero(answer != ABSENT)
    spoken = np.flatnonzero(~np.isin(answer[ticks], special))
    if not gate.size or not spoken.size:
        return None
    # The answer has a cell in the last row of every tick: that closes the tick of the gate.
    allowed = int(np.searchsorted(ticks, gate[0])) + 1
    return int(spoken[0]) - allowed
