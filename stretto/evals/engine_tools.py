"""The streams of a multi-stream model, with ``code`` held to one call of one tool.

The default model cannot choose among tools, nor program; but on its ``code`` stream it fills in the
arguments of one tool, where the grammar (:mod:`stretto.agents.calls`) leaves it no more than that.
"""

import ast
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from stretto.agents.calls import call_grammar, signature
from stretto.agents.tool import Tool
from stretto.errors import InputError
from stretto.protocols import Row

if TYPE_CHECKING:
    from stretto.engine import Engine, Session

STREAMS = "agent"
_MAX_ROWS = 400
_MAX_MESSAGE_TOKENS = 120
_MAX_RESULT = 400  # characters: the model was taught results of some 60 tokens


class OneCall:
    """The agent streams of an engine, with ``code`` held to one call of one tool.

    A :class:`~stretto.protocols.StreamModel`. ``think`` and ``say`` are free.

    Args:
        engine: of a model that knows the streams.
        tool: to be called, with what ``request`` mentions.
        request: the user's words.
        name: of the model, for logs.
        on_open, on_row: are given the session, and each of its rows.
    """

    scripted = False

    def __init__(
        self,
        engine: "Engine",
        tool: Tool,
        request: str,
        *,
        name: str = "",
        on_open: "Callable[[Session], None]" = lambda _: None,
        on_row: Callable[[Row], None] = lambda _: None,
    ) -> None:
        from stretto.engine import Grammar

        self._engine, self.tool, self.name = engine, tool, name or "engine"
        self.source = call_grammar(tool, request)
        self._grammar = Grammar.lark(self.source, pauses=False, once=True)
        self._on_open, self._on_row = on_open, on_row

    def open(
        self,
        *,
        prompts: Mapping[str, str | Sequence[int]] | None = None,
        sampling: Any = None,
        limits: Any = None,
        seed: int = 0,
    ) -> Any:
        """A session; its prompt is the day and the tool.

        Raises:
            InputError: the model has no such streams, or other prompts, sampling or limits are
                asked for.
        """
        from stretto.engine import Limits, SamplingParams

        if prompts or sampling is not None or limits is not None:
            raise InputError("the streams of one call have their own prompts, sampling and limits")
        session = self._engine.open(
            STREAMS,
            prompts={"system": f"today: {date.today()}\ntools: {signature(self.tool)}"},
            sampling={"code": SamplingParams(grammar=self._grammar, silence=False)},
            limits=Limits(max_rows=_MAX_ROWS, max_message_tokens=_MAX_MESSAGE_TOKENS),
            seed=seed,
        )
        self._on_open(session)
        return _Watched(session, self._on_row)


class _Watched:
    """A session whose rows somebody else sees too."""

    def __init__(self, session: "Session", on_row: Callable[[Row], None]) -> None:
        self._session, self._on_row = session, on_row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def __aiter__(self) -> AsyncIterator[Row]:
        async for row in self._session:
            self._on_row(row)
            yield row

    async def __aenter__(self) -> "_Watched":
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._session.__aexit__(*error)


def as_rows(stdout: str, value: str | None) -> str:
    """A result as the default model was taught results: ``[{"name":"value"}]``, all of it text."""
    try:
        found = ast.literal_eval(value or "None")
    except (ValueError, SyntaxError):
        return (stdout + (value or ""))[:_MAX_RESULT]
    if found is None:
        return stdout[:_MAX_RESULT]
    rows = found if isinstance(found, list) else [found]
    rows = [row if isinstance(row, Mapping) else {"result": row} for row in rows]
    texts = [{str(key): str(item) for key, item in row.items()} for row in rows]
    return json.dumps(texts, ensure_ascii=False, separators=(",", ":"))[:_MAX_RESULT]
