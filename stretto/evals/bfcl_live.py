"""BFCL on a live code stream: the call in one go, held to one grammar.

See :mod:`stretto.agents.calls`.
"""

import ast
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stretto.agents.schemas import identifier
from stretto.agents.tool import Tool
from stretto.evals.bfcl import Filled, Item, mismatch
from stretto.evals.engine_tools import OneCall

if TYPE_CHECKING:
    from stretto.engine import Engine

TOGETHER = 16


def fill_live(
    engine: "Engine", items: Sequence[Item], progress: Callable[[str], None] = lambda _: None
) -> list[Filled]:
    """Each item in one session of the agent streams, which thinks and calls at once.

    Args:
        engine: of a multi-stream model.
        items: the questions.
        progress: is told how far it is.
    """
    found: list[Filled] = []
    for start in range(0, len(items), TOGETHER):
        part = items[start : start + TOGETHER]
        found += judge(part, _calls(engine, part))
        progress(f"{len(found)} of {len(items)}")
    return found


def judge(items: Sequence[Item], texts: Sequence[str]) -> list[Filled]:
    """Judge what was written for each item: a line of Python."""
    return [Filled(i, text, _why(i, text)) for i, text in zip(items, texts, strict=True)]


def _calls(engine: "Engine", items: Sequence[Item]) -> list[str]:
    """What the code stream wrote; a session is stopped when its call is complete."""
    end, sessions = engine.codec.special.end, []
    for item in items:
        tool = Tool.from_schema(item.function["name"], item.function["description"], item.schema,
                                print)  # fmt: skip
        session = OneCall(engine, tool, item.question).open()
        session.send("user", item.question, end=True)
        sessions.append(session)
    while any(session.finish_reason is None for session in sessions):
        if not engine.step():
            break
        for session in sessions:
            if session.finish_reason is None and any(
                row.tokens.get("code") == end for row in session.rows[-1:]
            ):
                session.cancel("called")
    for session in sessions:
        session.cancel("quiet")
    return [session.table.text("code") for session in sessions]


def _why(item: Item, text: str) -> str:
    names = {identifier(name): name for name in item.schema["properties"]}
    try:
        (line,) = ast.parse(text).body
        call = line.value  # type: ignore[attr-defined]
        arguments = {names[each.arg]: ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, SyntaxError, AttributeError, KeyError):
        return "not a call"
    return mismatch(item.function, arguments, item.answer)
