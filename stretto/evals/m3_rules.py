"""M3ToolEval's rules (Wang et al. 2024, CodeAct): tasks, turns, answers, scores.

What counts as an action, an answer and a right answer is exactly as in the authors' program, its
oddities included (:func:`is_accepted`). How the protocol is explained to a model is in our words.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stretto.errors import InputError

Dialect = Literal["code", "json", "text"]
End = Literal["correct", "limit", "context_limit"]
DIALECTS: tuple[Dialect, ...] = ("code", "json", "text")
TURNS = 10
_MARK = re.compile(r"Answer:|Action:")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: family and name.
        instruction: what is asked.
        expected: the right answer.
        tools: each with ``name``, ``description`` and ``signature``.
        single_tool: whether the result of an action counts as an answer.
    """

    name: str
    instruction: str
    expected: Any
    tools: tuple[Mapping[str, str], ...]
    single_tool: bool = False


def load_tasks(path: Path) -> list[Task]:
    """Tasks of a JSON-lines file with the fields of the development pack.

    Raises:
        InputError: the file is missing or is something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [Task(d["name"], d["instruction"], d["expected_output"], tuple(d["tools"]),
                     bool(d.get("single_tool"))) for d in lines]  # fmt: skip
    except OSError as error:
        raise InputError(f"{path}: no M3ToolEval tasks ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not M3ToolEval's tasks ({error!r})") from None


# The authors' rules.


@dataclass(frozen=True)
class Said:
    """One turn of a model as the rules read it; ``kept`` is what stays in the conversation."""

    kind: Literal["answer", "action", "invalid"]
    content: str
    kept: str


def read(generation: str) -> Said:
    """What a turn says: only what stands before a second ``Answer:`` or ``Action:`` counts."""
    kept = generation.lstrip()
    marks = list(_MARK.finditer(kept))
    if len(marks) > 1:
        kept = kept[: marks[1].start()].strip()
        start = kept.find("Action:") + len("Action:")
        end = kept.find("End Action", start)
        if end != -1:
            kept = kept[: end + len("End Action")].strip()
        thought = kept.find("Thought:", start)
        if thought != -1:
            kept = kept[:thought].strip()
    mark = _MARK.search(kept)
    if mark is None:
        return Said("invalid", "Say either 'Action:' or 'Answer:'.", kept)
    rest = kept[mark.end() :]
    if mark[0] == "Answer:":
        return Said("answer", rest.strip(), kept)
    return Said("action", rest.lstrip().partition("End Action")[0], kept)


def is_accepted(answer: Any, expected: Any) -> bool:
    """Whether the authors' program would take an answer for the right one.

    Both are compared as they are, then as numbers where ``int`` or ``float`` can read them (a
    float among them loses its fraction: 161 is taken for 161.25), then as text, the answer read as
    a Python literal first if it is one. Where the right answer is a list or the like the comparison
    as numbers fails, so that only its very text is right; the authors' comparison of lists item by
    item never comes about.
    """
    try:
        if answer == expected or number(answer) == number(expected):
            return True
        answer = ast.literal_eval(answer)
    except Exception:  # whatever it is, it goes on with the texts
        pass
    return str(answer) == str(expected)


def number(value: Any) -> Any:
    """``int``, else ``float``, else as it is; what is no text or number raises TypeError."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


@dataclass(frozen=True)
class Score:
    """How a conversation ended.

    Attributes:
        correct: whether an answer was accepted.
        turns: used, that of the answer included.
        end: why it was over.
    """

    correct: bool
    turns: int
    end: End


def score(
    task: Task,
    generations: Iterable[str],
    *,
    results: Sequence[Any] = (),
    most: int = TURNS,
) -> Score:
    """Score what a model said, turn by turn, without running anything.

    Args:
        task: what it was asked.
        generations: its turns; those after an accepted answer do not count.
        results: of its actions in order, which decide in tasks of a single tool.
        most: turns that it had.
    """
    turns, waiting = 0, list(results)
    for generation in generations:
        if turns == most:
            break
        turns += 1
        said = read(generation)
        if said.kind == "action":
            result = waiting.pop(0) if waiting else None
            is_right = task.single_tool and is_accepted(result, task.expected)
        else:
            is_right = said.kind == "answer" and is_accepted(said.content, task.expected)
        if is_right:
            return Score(True, turns, "correct")
    return Score(False, turns, "limit")


def score_record(record: Mapping[str, Any]) -> Score:
    """Score a line of an output file of the authors' program, from its messages.

    Raises:
        InputError: it lacks a field, or is of a task of a single tool, whose results it lacks.
    """
    try:
        task = Task(record["task_name"], "", record["expected_output"], (),
                    record["is_single_tool_task"])  # fmt: skip
        said = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
    except (KeyError, TypeError) as error:
        raise InputError(f"not a line of M3ToolEval's output: {error!r}") from None
    if task.single_tool:
        raise InputError(f"{task.name}: the results of its actions are not in the output")
    return score(task, said)


# What a model is told.

HOW: dict[str, str] = {
    "text": "Call a tool by its name and its arguments, separated by commas, one call a turn:\n"
    "Action: tool_name, argument_1 End Action\n",
    "json": "Call a tool by a JSON object with 'tool', its name, and 'args', the list of its "
    'arguments, one call a turn:\nAction: {"tool": "tool_name", "args": ["argument_1"]} '
    "End Action\n",
    "code": "Call tools by Python code; loops, conditions and variables are allowed, and stay from "
    "turn to turn. Print what you want to see:\nAction:\ntool_name(argument_1)\nEnd Action\n",
}
WRONG = "That answer is wrong. Try again, and give only the answer, such as a single number."


def prompt(task: Task, dialect: Dialect) -> str:
    """What the model is told first."""
    tools = "".join(
        f"[{number}] {tool['name']}: {tool['description']}\n    Signature: {tool['signature']}\n"
        for number, tool in enumerate(task.tools, 1)
    )
    return (
        f"These are your tools:\n{tools}\n{HOW[dialect]}\nInstruction: {task.instruction}\n"
        "You may think aloud before an action: 'Thought: ... Action: ... End Action'.\n"
        "Each turn holds either 'Action:' or 'Answer:', never both. When you know the result, "
        "write 'Answer: ' and the bare answer, for instance a single number, nothing else."
    )
