"""A table of what variables were while code ran, line by line, sampled to a few lines."""

import json
from typing import Any

from stretto.agents.feedback.kinds import Feedback, is_stable, one_line, scrub
from stretto.agents.feedback.read import syntax
from stretto.agents.stream import CellSession

MAX_LINES = 20

# Runs in the sandbox. Only lines of the code itself are watched, and only so many.
_WATCH = """
def _stretto_watch(source, most):
    import sys
    rows, last, error = [], {}, None
    def show(value):
        text = repr(value)
        return text if len(text) <= 40 else text[:37] + "..."
    def note(frame, line):
        seen = last.setdefault(id(frame), {})
        changed = []
        for name, value in sorted(frame.f_locals.items()):
            if name.startswith("__") or callable(value) or type(value).__name__ == "module":
                continue
            try:
                text = show(value)
            except Exception:
                continue
            if seen.get(name) != text:
                seen[name] = text
                changed.append([name, text])
        if changed:
            rows.append([line, changed])
    def watch(frame, event, argument):
        if frame.f_code.co_filename != "<traced>" or len(rows) >= most:
            return None
        before = [frame.f_lineno]
        def inner(frame, event, argument):
            if len(rows) >= most:
                return None
            note(frame, before[0])
            before[0] = frame.f_lineno
            return inner
        return inner
    space = dict(globals())
    for name in list(space):
        if not name.startswith("__") and type(space[name]).__name__ != "function":
            last.setdefault("given", {})[name] = 1
    code = compile(source, "<traced>", "exec")
    sys.settrace(watch)
    try:
        exec(code, space)
    except BaseException as raised:
        at = raised.__traceback__
        line = None
        while at is not None:
            if at.tb_frame.f_code.co_filename == "<traced>":
                line = at.tb_lineno
            at = at.tb_next
        error = [type(raised).__name__, str(raised), line]
    finally:
        sys.settrace(None)
    given = last.get("given", {})
    rows = [[line, [c for c in changed if c[0] not in given]] for line, changed in rows]
    return {"rows": [row for row in rows if row[1]], "error": error}
"""


async def trace(code: str, session: CellSession, *, max_lines: int = MAX_LINES) -> Feedback:
    """What the variables were: the line that ran, and what it changed.

    Args:
        code: a whole text; tools can be called.
        session: a sandbox's session; the code runs in a fork of it.
        max_lines: of the table; the first and the last are kept.
    """
    if not (read := syntax(code)).good:
        return read
    copy = await session.fork()
    try:
        result = await copy.exec(f"{_WATCH}\n_stretto_watch({code!r}, 5000)")
    finally:
        await copy.close()
    stable = is_stable(code)
    if not result.ok or not isinstance(result.value, dict):
        why = f"{result.error.type}: {result.error.message}" if result.error else "no trace"
        return Feedback("explanation", None, one_line(f"not traced: {why}"), "trace", 1, 0.0, False)
    found: dict[str, Any] = json.loads(json.dumps(result.value))
    table = _table(found["rows"], max_lines)
    error = found["error"]
    text = f"it ran to its end, {len(found['rows'])} changes"
    if error:
        text = f"line {error[2]}: {error[0]}: {error[1]}, after {len(found['rows'])} changes"
    return Feedback(
        "explanation",
        "\n".join(table),
        one_line(text),
        "trace",
        1,
        deterministic=stable,
        line=error[2] if error else None,
        details={"trace": "\n".join(table)},
    )


def _table(rows: list[Any], most: int) -> list[str]:
    """At most ``most`` lines, with what was left out told by one of them."""
    lines = [
        scrub(f"line {line}: " + ", ".join(f"{name} = {text}" for name, text in changed))
        for line, changed in rows
    ]
    if len(lines) <= most:
        return lines
    head, tail = most // 2, most - most // 2 - 1
    return [*lines[:head], f"... {len(lines) - head - tail} more ...", *lines[len(lines) - tail :]]
