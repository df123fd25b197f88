"""Run a saved table again and check that the same comes out."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stretto.engine.clock import VirtualClock
from stretto.engine.params import Limits, SamplingParams
from stretto.errors import InputError
from stretto.streams import ABSENT, StreamTable

if TYPE_CHECKING:
    from stretto.engine.engine import Engine
    from stretto.engine.session import Session

_NEVER = 2**31


def replay(engine: "Engine", table: StreamTable) -> StreamTable:
    """Feed a table's inputs tick by tick as it had them; its outputs must come out again.

    A tick ends with the row in which outputs have cells, so the table itself says what was read
    when; ``meta`` adds seed, sampling and limits.

    Args:
        engine: of the same model on the same back end.
        table: made by :meth:`Engine.open`, possibly saved and loaded.

    Returns:
        the new table; equal to the old one.

    Raises:
        InputError: the table lacks what a replay needs, or another token came out (row and
            stream are named).
    """
    [made] = replay_many(engine, [table])
    if isinstance(made, InputError):
        raise made
    return made


def replay_many(engine: "Engine", tables: Sequence[StreamTable]) -> list[StreamTable | InputError]:
    """As :func:`replay` for several tables in common steps; of each its new table, or the error.

    Raises:
        LimitError: they are more than the engine lets wait.
    """
    made: list[StreamTable | InputError] = [InputError("not replayed")] * len(tables)
    live = {i: _replaying(engine, table) for i, table in enumerate(tables)}
    try:
        while live:
            for i, one in list(live.items()):
                try:
                    next(one)
                    continue
                except StopIteration as over:
                    made[i] = over.value
                except InputError as error:
                    made[i] = error
                del live[i]
            if live:
                engine.step()
    finally:
        for one in live.values():
            one.close()
    return made


def _replaying(engine: "Engine", table: StreamTable) -> Generator[None, None, StreamTable]:
    """Replays a table; whoever drives it steps the engine once between two rounds."""
    session = _open(engine, table)
    try:
        yield from _feed(session, table)
    finally:
        session.cancel("replayed")
    return session.table


def _feed(session: "Session", table: StreamTable) -> Generator[None, None, None]:
    outputs, first = list(table.streams.outputs), 0
    reseeded = {int(at["row"]): int(at["seed"]) for at in table.meta.get("reseeded", ())}
    for last in np.flatnonzero((table.rows[:, outputs] != ABSENT).any(axis=1)).tolist():
        if first in reseeded:  # by a fork; it drew what the prefill asked with the old seed
            while not session.is_prefilled and session.finish_reason is None:
                yield
            session.reseed(reseeded[first])
        for i in table.streams.inputs:
            tokens = table.rows[first : last + 1, i]
            if (tokens != ABSENT).any():
                session.send(table.streams[i].name, tokens[tokens != ABSENT].tolist())
        while len(session.rows) <= last and session.finish_reason is None:
            yield
        _compare(table, session, first, last)
        first = last + 1


def _open(engine: "Engine", table: StreamTable) -> "Session":
    try:
        sampling = table.meta["sampling"].items()
        sampling = {name: SamplingParams.from_dict(params) for name, params in sampling}
        seed, saved = int(table.meta["seed"]), Limits.from_dict(table.meta["limits"])
    except (KeyError, AttributeError, ValueError) as error:
        raise InputError(f"table.meta lacks what a replay needs ({error})") from None
    limits = Limits(_NEVER, _NEVER, max_message_tokens=saved.max_message_tokens)
    return engine.open(
        table.streams,
        prompts=table.prompts,
        sampling=sampling,
        limits=limits,
        seed=seed,
        clock=VirtualClock(lambda cells, cached: 0.0),
        speculate=False,  # its inputs come when the row before them is there
    )


def _compare(table: StreamTable, session: "Session", first: int, last: int) -> None:
    made = session.table.rows[first : last + 1]
    differs = np.argwhere(made != table.rows[first : last + 1][: len(made)])
    if differs.size or len(made) <= last - first:
        row, i = differs[0] if differs.size else (len(made), 0)
        session.cancel("differs")
        raise InputError(
            f"replay differs from row {first + row}, stream {table.streams[int(i)].name!r}: "
            "another model, precision or back end, or the table was changed"
        )
