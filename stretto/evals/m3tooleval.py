"""M3ToolEval (Wang et al. 2024, CodeAct): tasks that take several tools, by code, JSON or text.

A model has ten turns; each is one action or an answer. A wrong answer is told to be wrong and may
be mended. The rules are the authors' (:mod:`stretto.evals.m3_rules`), the words to the model ours,
and a traceback looks as our sandbox shows it: figures are near to the published ones but not of the
same experiment. Tools and code run in the sandbox.
"""

import ast
import asyncio
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from stretto.agents.sandbox import (
    ExecResult,
    Policy,
    Sandbox,
    Session,
    SessionEndedError,
    open_sandbox,
)
from stretto.errors import ConfigError, InputError, LimitError, StrettoError
from stretto.evals import m3_tools
from stretto.evals.m3_rules import (
    DIALECTS,
    HOW,
    TURNS,
    WRONG,
    Dialect,
    Score,
    Task,
    number,
    prompt,
    read,
    score,
)
from stretto.evals.metrics import wilson
from stretto.protocols import ChatModel, Message
from stretto.runs import Run

MAX_TOKENS = 512  # of a turn
POLICY = Policy(wall=30, cpu=30)
_SHOWN = 2000  # characters of an observation
_CUT = "...\n[Output Truncated]"


@dataclass(frozen=True)
class Outcome:
    """A conversation and its score.

    Attributes:
        task: its name.
        dialect: of the actions.
        messages: all of it, as role and text.
        score: see :class:`Score`.
        model: as it calls itself.
        scripted: whether no model wrote it.
        cost: in US dollars, where known.
    """

    task: str
    dialect: Dialect
    messages: tuple[tuple[str, str], ...] = field(repr=False)
    score: Score
    model: str
    scripted: bool
    cost: float = 0.0


async def run_task(
    model: ChatModel,
    task: Task,
    dialect: Dialect,
    box: Sandbox,
    data: Mapping[str, Any],
    *,
    most: int = TURNS,
    seed: int | None = None,
) -> Outcome:
    """Let a model work at a task.

    Args:
        model: any chat model.
        task: what it is asked.
        dialect: how it acts.
        box: where its code and the tools run, opened with :data:`POLICY`.
        data: see :func:`load_data`.
        most: turns.
        seed: for endpoints that take one.

    Raises:
        StrettoError: of the model, except that its context is full, which ends the task.
    """
    messages = [Message("user", prompt(task, dialect))]
    said, results, cost, end = [], [], 0.0, None
    world = _World(task, dialect, box, data)
    try:
        while not (so_far := score(task, said, results=results, most=most)).correct:
            if so_far.turns == most:
                break
            try:
                answer = await model.complete(
                    messages, max_tokens=MAX_TOKENS, temperature=0.0, seed=seed
                )
            except LimitError:
                raise
            except StrettoError as error:
                if "context" not in str(error).lower():
                    raise
                end = "context_limit"
                break
            cost += answer.usage.cost
            said.append(answer.text)
            turn = read(answer.text)
            messages.append(Message("assistant", turn.kept))
            reply = turn.content if turn.kind == "invalid" else WRONG
            if turn.kind == "action":
                results.append(await world.act(turn.content))
                reply = str(results[-1])
            messages.append(Message("user", reply))
    finally:
        await world.close()
    final = score(task, said, results=results, most=most)
    if end is not None:
        final = Score(False, final.turns, "context_limit")
    if final.correct and not task.single_tool:
        messages.pop()  # nobody told the model that it was wrong
    return Outcome(
        task.name, dialect, tuple((m.role, m.content) for m in messages), final, model.name,
        model.scripted, cost,
    )  # fmt: skip


def load_data(folder: Path) -> dict[str, Any]:
    """What the tools look things up in: pages of the development pack, flights and hotels of ours.

    Raises:
        InputError: the pages are missing or are something else.
    """
    path = folder / "m3_web_pages.jsonl"
    try:
        lines = map(json.loads, path.read_text("utf-8").splitlines())
        pages = {line["name"]: line["content"] for line in lines}
    except OSError as error:
        raise InputError(f"{path}: no pages for M3ToolEval ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not M3ToolEval's pages ({error!r})") from None
    travel = json.loads((files("stretto.evals") / "m3_travel.json").read_text("utf-8"))
    return {"pages": pages, "flights": travel["flights"], "hotels": travel["hotels"]}


def setup(task: Task, data: Mapping[str, Any]) -> str:
    """Code that gives a sandbox's session the tools of a task."""
    names = [tool["name"] for tool in task.tools]
    return (
        f"import json as _json\n_m3 = {{'__name__': 'm3'}}\n"
        f"exec({inspect.getsource(m3_tools)!r}, _m3)\n"
        f"_tools = _m3['provide']({names!r}, _json.loads({json.dumps(data)!r}))\n"
        "globals().update(_tools)\n"
    )


class _World:
    """Where actions of one task happen."""

    def __init__(self, task: Task, dialect: Dialect, box: Sandbox, data: Mapping[str, Any]) -> None:
        self._task, self._dialect, self._box, self._data = task, dialect, box, data
        self._names = {tool["name"] for tool in task.tools}
        self._session: Session | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def act(self, action: str) -> Any:
        """The observation; what can be read as a Python literal is one, after code."""
        if self._dialect == "code":
            seen = _observed(await self._run(action), action)
            with suppress(Exception):
                return ast.literal_eval(seen.strip())
            return seen
        try:
            name, arguments = _PARSERS[self._dialect](action)
        except (
            SyntaxError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # the model is told
            return f"That is no action. {HOW[self._dialect]}Error: {error}"
        if name not in self._names:
            return f"There is no tool named {name}"
        result = await self._run(f"_m3['call'](_tools, {name!r}, {json.dumps(arguments)!r})")
        if not result.ok:
            return f"The tool {name} failed with {arguments}. Only one tool can be called a turn."
        return _cut(str(result.value))

    async def _run(self, code: str) -> ExecResult:
        if self._session is None or not self._session.alive:
            self._session = await self._box.open_session()
            ready = await self._session.exec(setup(self._task, self._data))
            if not ready.ok:
                raise InputError(f"{self._task.name}: its tools do not run ({ready.error})")
        try:
            return await self._session.exec(code)
        except SessionEndedError:
            return ExecResult(ok=False, stderr="The session has ended.")


def _observed(result: ExecResult, action: str) -> str:
    """What an interactive shell would show."""
    seen = result.stdout
    if result.value_repr not in (None, "None") and not action.rstrip().endswith(";"):
        seen += f" {result.value_repr}\n"
    if result.error is not None:
        seen += result.error.traceback or f"{result.error.type}: {result.error.message}"
    elif not result.ok:
        seen += f"Stopped at its {result.limit} limit." if result.limit else result.stderr
    return _cut(seen) if seen else "[Ran without output; print what you want to see.]"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + _CUT


def _read_text(action: str) -> tuple[str, list[Any]]:
    name, *arguments = action.split(",")
    return name.strip(), [number(each.strip()) for each in arguments]


def _read_json(action: str) -> tuple[str, list[Any]]:
    data = json.loads(action)
    arguments = data["args"]
    return str(data["tool"]), arguments if isinstance(arguments, list) else [arguments]


_PARSERS: dict[str, Callable[[str], tuple[str, list[Any]]]] = {
    "text": _read_text, "json": _read_json,
}  # fmt: skip


# Many tasks.


async def run_all(
    model: ChatModel,
    tasks: Sequence[Task],
    dialect: Dialect,
    data: Mapping[str, Any],
    folder: Path,
    *,
    sandbox: Any = "auto",
    together: int = 8,
    seed: int | None = None,
    resume: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Let a model work at tasks, some at a time.

    Each finished task is a line of ``outcomes.jsonl`` in the run folder, with the fields of the
    authors' output files, and those of ours that say who answered and what it cost.

    Args:
        model, dialect, data, seed: as :func:`run_task`.
        tasks: what is asked.
        folder: of the run.
        sandbox: which back end.
        together: tasks at a time.
        resume: go on with the run in the folder; what is there is not asked again.
        tell: is given a line a task, with the time left.

    Returns:
        the lines, in the order of the tasks.

    Raises:
        ConfigError: no such dialect, or the run to be resumed was another one.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"no dialect {dialect!r}; choose from {', '.join(DIALECTS)}")
    config = {"model": model.name, "scripted": model.scripted, "dialect": dialect, "seed": seed}
    run = Run.open(folder) if resume else Run.create(folder, config, kind="m3tooleval")
    if run.config() != config:
        raise ConfigError(f"{folder}: holds a run of {run.config()}")
    path = folder / "outcomes.jsonl"
    found = _lines(path)
    missing = [task for task in tasks if task.name not in found]
    start, slots, num_before = time.monotonic(), asyncio.Semaphore(together), len(found)

    async def one(task: Task) -> None:
        async with slots:
            outcome = await run_task(model, task, dialect, box, data, seed=seed)
        found[task.name] = _record(task, outcome)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found[task.name], ensure_ascii=False) + "\n")
        done = len(found) - num_before
        left = (time.monotonic() - start) / done * (len(missing) - done)
        tell(f"{len(found)} of {len(tasks)}: {task.name}, {outcome.score.end}, {left:.0f} s left")

    with run:
        async with open_sandbox(sandbox, POLICY) as box, asyncio.TaskGroup() as group:
            for task in missing:
                group.create_task(one(task))
        records = [found[task.name] for task in tasks]
        run.write_metrics(summary(records))
    return records


def _lines(path: Path) -> dict[str, dict[str, Any]]:
    """Whole lines; one that a kill cut short is cut off the file."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    records = map(json.loads, whole.decode().splitlines())
    return {record["task_name"]: record for record in records}


def _record(task: Task, outcome: Outcome) -> dict[str, Any]:
    return {
        "task_name": task.name,
        "is_single_tool_task": task.single_tool,
        "action_mode": f"{outcome.dialect}_as_action",
        "prompt": outcome.messages[0][1],
        "messages": [{"role": role, "content": text} for role, text in outcome.messages],
        "expected_output": task.expected,
        "is_correct": outcome.score.correct,
        "n_turns": outcome.score.turns,
        "end_reason": outcome.score.end,
        "model": outcome.model,
        "scripted": outcome.scripted,
        "cost": outcome.cost,
    }


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Success and turns, per cent with its 95 % interval; who answered."""
    right = sum(bool(record["is_correct"]) for record in records)
    low, high = wilson(right, len(records))
    return {
        "tasks": len(records),
        "success": 100 * right / max(1, len(records)),
        "success_95": [100 * low, 100 * high],
        "turns": sum(record["n_turns"] for record in records) / max(1, len(records)),
        "models": sorted({record["model"] for record in records}),
        "scripted": any(record["scripted"] for record in records),
        "cost": sum(record["cost"] for record in records),
    }
