"""A plan from PDDL: a domain and a problem are solved, and the plan comes back as calls of tools.

The solver is pyperplan (STRIPS with types). Its licence is the GPL: it runs as a program of its
own, in a folder of its own, with limits of time and memory, and is never imported.
"""

import asyncio
import importlib.util
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stretto.agents.feedback import Feedback
from stretto.agents.planning.pddl_text import check, spelling
from stretto.agents.sandbox.base import parse_bytes
from stretto.agents.schemas import identifier
from stretto.errors import ConfigError, InputError

Ending = Literal["solved", "malformed", "unsolvable", "limit"]
Search = Literal["gbf", "astar", "bfs", "ehs", "ids", "wastar"]

_MAX_TEXT = 200_000  # characters of domain and problem
# Limits are set by the process that becomes the solver: nothing of ours runs between.
_LAUNCH = """
import os, resource, sys
memory, seconds = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.executable, [sys.executable, "-s", "-P", "-m", "pyperplan", *sys.argv[3:]])
"""
_ACTION = re.compile(r"\((\S+)((?: \S+)*)\)")


@dataclass(frozen=True)
class Action:
    """A step of the solver's plan, words as domain and problem write them."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solution:
    """What the solver found.

    Attributes:
        ending: ``solved``; ``malformed``: the texts are wrong; ``unsolvable``: no plan reaches the
            goal; ``limit``: none was found in time and memory.
        actions: of the plan; empty where there is none, or the goal holds already.
        told: the same for a model.
    """

    ending: Ending
    actions: tuple[Action, ...]
    told: Feedback


async def solve(
    domain: str,
    problem: str,
    *,
    search: Search = "gbf",
    heuristic: str = "hff",
    seconds: float = 10.0,
    memory: str = "512M",
) -> Solution:
    """Find a plan.

    Args:
        domain, problem: in PDDL.
        search: ``bfs`` and ``astar`` (with ``hmax`` or ``lmcut``) find a shortest plan, ``gbf``
            finds one sooner.
        heuristic: pyperplan's name for it: hadd, hff, hmax, hsa, lmcut, blind, landmark.
        seconds: of waiting and of computing.
        memory: address space of the solver.

    Raises:
        ConfigError: pyperplan is not installed, or a limit is out of range.
    """
    if importlib.util.find_spec("pyperplan") is None:
        raise ConfigError("pyperplan is not installed; run: pip install 'stretto[agents]'")
    size = parse_bytes(memory)
    if seconds <= 0:
        raise ConfigError(f"seconds is {seconds}; give more than 0")
    try:
        if len(domain) + len(problem) > _MAX_TEXT:
            raise InputError(f"pddl: domain and problem have more than {_MAX_TEXT} characters")
        check(domain, problem)
    except InputError as error:
        return _ended("malformed", str(error))
    with tempfile.TemporaryDirectory(prefix="stretto-plan-") as name:
        folder = Path(name)
        (folder / "domain.pddl").write_text(domain, encoding="utf-8")
        (folder / "problem.pddl").write_text(problem, encoding="utf-8")
        limits = [str(size), str(int(seconds) + 1)]
        asked = ["-l", "error", "-s", search, "-H", heuristic, "domain.pddl", "problem.pddl"]
        code, errors = await _run([*limits, *asked], folder, seconds)
        solved = folder / "problem.pddl.soln"
        if code == 0 and solved.exists():
            words = spelling(problem, domain)
            text = solved.read_text(encoding="utf-8")
            actions = tuple(
                Action(words.get(name) or name, tuple(words.get(a) or a for a in rest.split()))
                for name, rest in _ACTION.findall(text)
            )
            told = Feedback("binary", True, f"a plan of {len(actions)} steps", "pddl")
            return Solution("solved", actions, told)
    if code == 0:
        return _ended("unsolvable", "pddl: no plan reaches the goal from the initial state; look "
                      "for facts that are missing and for effects that undo too much")  # fmt: skip
    # Without a traceback it never came to reading: there was no memory to start in.
    if code is None or code < 0 or "MemoryError" in errors or "Traceback" not in errors:
        return _ended("limit", f"pddl: no plan was found with {seconds:g} s and {memory}; give "
                      "fewer objects or a simpler goal")  # fmt: skip
    return _ended("malformed", f"pddl: {_reason(errors)}")


def to_code(actions: Sequence[Action], tools: Mapping[str, str] | None = None) -> str:
    """The plan as code, one call a line.

    Args:
        actions: of a solution.
        tools: a call by the action's name, its arguments by place, as in ``{"pick": "grasp({0})",
            "move": "go(to={1})"}``; an action without one calls the tool of its name with all of
            its arguments; "" leaves the action out.

    Raises:
        InputError: a call takes an argument that the action has not.
    """
    calls = {name.lower(): call for name, call in (tools or {}).items()}
    lines = []
    for action in actions:
        quoted = [repr(argument) for argument in action.arguments]
        default = f"{identifier(action.name)}({', '.join(quoted)})"
        call = calls.get(action.name.lower())
        try:
            line = default if call is None else call.format(*quoted)
        except (IndexError, KeyError, ValueError):
            raise InputError(f"action {action.name}: it has {len(quoted)} arguments, which "
                             f"{call!r} does not fit; write {{0}}, {{1}}") from None  # fmt: skip
        lines += [line] if line else []
    return "".join(f"{line}\n" for line in lines)


async def _run(arguments: Sequence[str], folder: Path, seconds: float) -> tuple[int | None, str]:
    """Exit code, None if time ran out, and the end of what it wrote to stderr."""
    log = folder / "stderr"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", _LAUNCH, *arguments, cwd=folder,
            # Nothing of our environment; sets of words are in the same order on every run.
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PATH": ""},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        code: int | None = None
        try:
            code = await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return code, log.read_bytes()[-4000:].decode(errors="replace")


def _reason(errors: str) -> str:
    """The solver's last words, without its traceback."""
    last = errors.strip().rpartition("\n")[2]
    kind, _, message = last.partition(": ")
    message = message.strip().strip("'\"").removeprefix("Error: ").removeprefix("Error ")
    name = kind.rpartition(".")[2]
    known = ("SemanticError", "ParseError", "ValueError")
    return message if message and name in known else f"the solver cannot read this ({name})"


def _ended(ending: Ending, text: str) -> Solution:
    return Solution(ending, (), Feedback("binary", False, " ".join(text.split()), "pddl"))
