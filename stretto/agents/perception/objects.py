"""Pages, data and tables from within a sandbox: references there, objects here, two tools between.

What comes out of them was written by strangers, so both tools are untrusted: whoever has read one
is tainted, and an irreversible call after it is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stretto.agents.perception.data import LiveData
from stretto.agents.perception.page import LivePage
from stretto.agents.perception.source import Live, More
from stretto.agents.perception.table import LiveTable
from stretto.agents.refs import ObjectStore
from stretto.agents.tool import Tool
from stretto.errors import InputError

_READS: dict[type, tuple[str, ...]] = {
    More: ("more",),
    LivePage: ("show", "find", "get", "rows"),
    LiveData: ("show", "get", "keys", "length"),
    LiveTable: ("show", "head", "rows", "column", "describe"),
}
_WRITES: dict[type, tuple[str, ...]] = {LivePage: ("click", "fill", "submit")}

METHODS: Mapping[type, Sequence[str]] = {
    kind: (*names, *_WRITES.get(kind, ())) for kind, names in _READS.items()
}
"""What may be called on what, for :class:`.refs.ObjectStore`."""


def object_tools(store: ObjectStore) -> list[Tool]:
    """``look_at(thing, method, arguments)``, which reads, and ``act_on``, which writes.

    Args:
        store: the broker's, made with :data:`METHODS`.
    """

    def call(thing: Any, method: str, arguments: dict[str, Any], allowed: Any, other: str) -> Any:
        if not isinstance(thing, Live | More):
            raise InputError(f"thing is a {type(thing).__name__}; give a reference to a page, "
                             "data or a table")  # fmt: skip
        names = [name for kind, each in allowed.items() if isinstance(thing, kind) for name in each]
        ref = store.put(thing)
        if method in ref.methods and method not in names:
            raise InputError(f"object {ref.id}: call {method!r} by {other}")
        return store.call(ref, method, **arguments)

    # dict() as a default would be shown in the schema; None is as good.
    def look_at(thing: Any, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Read a page, data or a table: show(budget=4000), more(), find(text), get(...), rows(...),
        head(count), column(name), describe(), keys(path), length(path).

        Args:
            thing: reference to it.
            method: what to call.
            arguments: by name.
        """
        return call(thing, method, arguments or {}, _READS, "act_on")

    def act_on(thing: Any, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Act on a page: click(element), fill(element, value), submit(element).

        Args:
            thing: reference to it.
            method: what to call.
            arguments: by name.
        """
        return call(thing, method, arguments or {}, _WRITES, "look_at")

    return [
        Tool(look_at, effect="read", kind="multimodal", untrusted=True),
        Tool(act_on, effect="write", kind="multimodal", untrusted=True, timeout=30.0),
    ]
