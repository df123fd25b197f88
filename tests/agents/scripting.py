"""Answers written beforehand, given in pieces; and a world of tools to try them on."""

import asyncio
from typing import Any

import pytest

from stretto.agents.agent import Agent, AgentResult
from stretto.agents.registry import Registry
from stretto.agents.tool import tool
from stretto.errors import SandboxError
from stretto.protocols import Completion, Message, Usage


class Script:
    """A chat model without a model."""

    name = "script"
    scripted = True

    def __init__(self, *answers: Any, pieces: int = 9, pause: float = 0.0) -> None:
        self.answers, self.pieces, self.pause = list(answers), pieces, pause
        self.asked: list[list[Message]] = []
        self.options: list[dict[str, Any]] = []

    async def complete(self, messages, *, on_text=None, **options):
        self.asked.append(list(messages))
        self.options.append(options)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, str):
            usage = Usage(10, max(1, len(answer) // 4), 0.01)
            answer = Completion(answer, usage=usage, model="script", scripted=True)
        cuts = self.pieces if isinstance(self.pieces, list) else range(0, 10**6, self.pieces)
        cuts = [cut for cut in cuts if cut < len(answer.text)]
        for start, end in zip([0, *cuts], [*cuts, len(answer.text)], strict=True):
            if on_text is not None and end > start:
                on_text(answer.text[start:end])
                await asyncio.sleep(self.pause)
        return answer


class World:
    """Tools that note what they did."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.searched: list[str] = []

    def registry(self) -> Registry:
        @tool(effect="read")
        def search(query: str) -> list[str]:
            """Search the archive."""
            self.searched.append(query)
            return [f"{query} 1", f"{query} 2"]

        @tool(effect="irreversible")
        def send(text: str) -> str:
            """Send a message."""
            self.sent.append(text)
            return f"sent {text}"

        return Registry([search, send])


def code(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```\n"


def sandboxed(coroutine: Any) -> Any:
    """Run, or skip where there is no sandbox."""
    try:
        return asyncio.run(coroutine)
    except SandboxError as error:
        if "no sandbox works here" in str(error):
            pytest.skip(str(error))
        raise


def solve(agent: Agent, task: str = "do it", **options: Any) -> AgentResult:
    return sandboxed(agent.run(task, **options))


def kinds(result: AgentResult) -> list[str]:
    return [event.kind for event in result.events]


def data(result: AgentResult, kind: str) -> list[dict[str, Any]]:
    return [event.data for event in result.events if event.kind == kind]
