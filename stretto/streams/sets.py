"""The stream sets that ship with stretto. A new one is data only."""

from collections.abc import Iterable

from stretto.errors import InputError
from stretto.streams.stream import Stream, StreamSet

_USER = Stream("user", "input", trusted=True)
_ANSWER = Stream("answer", "output")

SINGLE = StreamSet([Stream("text", "output")])
"""One ordinary stream: the base model, and the baseline everything is compared with."""

READ = StreamSet([_USER, _ANSWER])
"""Answer while reading (paper section 5, two streams)."""

AUDIT = StreamSet([_USER, _ANSWER, Stream("audit", "output")])
"""Answer while reading, with a second voice that checks the answer as it is written."""

AGENT = StreamSet(
    [
        Stream("system", "input", prompt_only=True, trusted=True),
        _USER,
        Stream("result", "input"),
        Stream("think", "output", visible=False),
        Stream("say", "output"),
        Stream("code", "output"),
    ]
)
"""Think, say and act at once; results of code come back on ``result``."""

_THOUGHTS = (
    "analytical",
    "skeptical",
    "intuitive",
    "between",
    "curious",
    "void",
    "instinct",
    "synthesis",
)
MINDS = StreamSet(
    [
        _USER,
        Stream("output", "output"),
        *(Stream(name, "output", visible=False) for name in _THOUGHTS),
    ]
)
"""The paper's ten streams (section 7): one input, one visible output, eight thought streams."""


def townhall(n: int) -> StreamSet:
    """``n`` villagers who hear the moderator and speak at once.

    Raises:
        InputError: ``n`` is below 1.
    """
    if n < 1:
        raise InputError(f"townhall({n}): it takes at least one villager")
    villagers = [Stream(f"villager_{i}", "output") for i in range(1, n + 1)]
    return StreamSet([Stream("moderator", "input", trusted=True), *villagers])


def union(sets: Iterable[StreamSet]) -> StreamSet:
    """Every stream of ``sets`` once, in order of first appearance: the inventory of a checkpoint.

    Raises:
        InputError: two sets give the same name to different streams.
    """
    found: dict[str, Stream] = {}
    for stream in (stream for streams in sets for stream in streams):
        if found.setdefault(stream.name, stream) != stream:
            raise InputError(f"stream {stream.name!r} is defined in two different ways")
    return StreamSet(list(found.values()))


_SETS = {"single": SINGLE, "read": READ, "audit": AUDIT, "agent": AGENT, "minds": MINDS}


def stream_set(name: str) -> StreamSet:
    """A shipped stream set by name; ``townhall:5`` makes a town hall of five.

    Raises:
        InputError: no such set.
    """
    if name in _SETS:
        return _SETS[name]
    kind, _, count = name.partition(":")
    if kind == "townhall" and count.isdigit():
        return townhall(int(count))
    raise InputError(f"no stream set {name!r}; choose from {', '.join(_SETS)}, townhall:N")
