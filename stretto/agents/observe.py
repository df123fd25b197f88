"""What a model is told of what its actions did."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stretto.agents.dialects import MARK
from stretto.agents.feedback import Feedback, Level, explain_error, scrub
from stretto.agents.stream import Report

MOST = 4000
"""Characters of a result that are shown."""
_NOTHING = "(no output; print what you want to see)"


def of_code(report: Report, outputs: Sequence[Mapping[str, Any]]) -> list[Feedback]:
    """Of a block: what it printed, and where it failed.

    Args:
        report: what became of it.
        outputs: data of its ``output`` events.
    """
    left, failure = len(report.rest), report.failure
    source_line, hint = "", failure.hint if failure is not None else ""
    if failure is not None and failure.index is not None and report.rest:
        first = report.rest[0]
        lines = first.source.splitlines()
        at = failure.line - first.line
        source_line = lines[at] if 0 <= at < len(lines) else ""
    parts = [part for output in outputs for part in _parts(output)]
    seen = cut("".join(parts).rstrip())
    error = outputs[-1]["error"] if outputs and not outputs[-1]["ok"] else None
    if error is None:
        return [Feedback("result", seen, seen or _NOTHING, "code")]
    where = f"line {error['line']}: {error['type']}: {scrub(error['message'])}"
    note = "What ran before it is kept; go on from there."
    if left > 1:
        note = f"Statements behind it that did not run: {left - 1}. {note}"
    details = {"trace": note, "explain": explain_error(error["type"], source_line, hint or None)}
    wrong = Feedback("binary", False, where, "code", line=error["line"], details=details)
    return [Feedback("result", seen, seen, "code"), wrong] if seen else [wrong]


def of_call(record: Mapping[str, Any]) -> Feedback:
    """Of one call."""
    if not record["ok"]:
        return Feedback("binary", False, record["error"], "call")
    value = record["value"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if record["remarks"]:
        text += f"\n({'; '.join(record['remarks'])})"
    return Feedback("result", value, cut(text) or '""', "call")


def wrong(hint: str) -> Feedback:
    """Of an answer that cannot be read."""
    return Feedback("binary", False, hint, "dialect")


def told(parts: Sequence[Feedback], level: Level) -> str:
    """One message of all."""
    texts = []
    for part in parts:
        shown = part.text if part.good and part.kind == "result" else part.at(level)
        texts.append(shown if part.good else f"error: {shown}")
    return f"{MARK.strip()}\n" + "\n".join(texts)


def cut(text: str, most: int = MOST) -> str:
    """The beginning and the end of a long text, with what was left out told between."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3
    left = len(text) - head - tail
    return f"{text[:head]}\n... {left} characters left out ...\n{text[-tail:]}"


def _parts(output: Mapping[str, Any]) -> list[str]:
    found = [output.get("stdout") or "", output.get("stderr") or ""]
    value = output.get("value_repr")
    if value not in (None, "None"):
        found.append(f"{value}\n")
    return [scrub(part) for part in found if part]
