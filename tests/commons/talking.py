"""A scripted chat model that answers every prompt of the commons, for tests."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stretto.protocols import Completion, Message

ANSWERS: dict[str, Any] = {
    "units": 10, "done": False, "rating": 5, "limit": 10, "insights": ["We keep to ten."],
    "reasoning": "It lasts.", "message": "Ten each.", "note": "Keep to ten.",
}  # fmt: skip


class Talker:
    """Answers by the keys that a prompt asks for; counts what it was asked.

    Args:
        answers: by key, instead of the usual ones; a callable is given the messages.
        name: of the model.
        jitter: longest delay, seconds; drawn without a seed, for nothing may depend on it.
    """

    scripted = True

    def __init__(
        self,
        answers: Mapping[str, Any] | None = None,
        name: str = "talker",
        jitter: float = 0.0,
    ) -> None:
        self.name, self._answers, self._jitter = name, {**ANSWERS, **(answers or {})}, jitter
        self.asked: Counter[str] = Counter()
        self.prompts: list[str] = []

    async def complete(self, messages: Sequence[Message], **_: Any) -> Completion:
        if self._jitter:
            await asyncio.sleep(random.random() * self._jitter)
        # Not the reminder that an answer could not be used.
        question = next(m.content for m in messages[::-1] if "Answer as JSON:" in m.content)
        self.prompts.append("\n".join(message.content for message in messages))
        keys = re.findall(r'"(\w+)"', question.split("Answer as JSON:")[-1])
        self.asked[keys[-1] if keys[0] == "reasoning" else keys[0]] += 1
        told = {key: self._answer(key, messages) for key in keys}
        if "next" in keys and "next" not in self._answers:
            told["next"] = re.findall(r"one of: ([^,)]+)", question)[0]
        return Completion(json.dumps(told), scripted=True, model=self.name)

    def _answer(self, key: str, messages: Sequence[Message]) -> Any:
        value = self._answers.get(key, f"Words on {key}.")
        return value(messages) if isinstance(value, Callable) else value


class Saying:
    """A scripted chat model that gives completions, or raises errors, one after the other."""

    scripted, name = True, "saying"

    def __init__(self, *answers: str | Completion | Exception) -> None:
        self._answers, self.messages = list(answers), []

    async def complete(self, messages: Sequence[Message], **_: Any) -> Completion:
        self.messages.append(list(messages))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer) if isinstance(answer, str) else answer


class Letters:
    """An embedder for tests: how often each letter occurs."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array(
            [[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
             for text in texts], np.float32,
        ).reshape(len(texts), 26)  # fmt: skip
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
