"""A chat model that is none: its answers were written beforehand, and it says so."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stretto.agents import trace
from stretto.errors import InputError
from stretto.protocols import Completion, Message

Answer = str | Completion


class ScriptedChat:
    """Says what it was told to say; for tests, replays and plain policies.

        >>> import asyncio
        >>> model = ScriptedChat(["4", "5"])
        >>> asyncio.run(model.complete([Message("user", "2 + 2?")])).text
        '4'

    Args:
        answers: one after the other, or a function of the messages.
        name: as logs name it.

    Attributes:
        asked: the messages of each question.
    """

    scripted = True

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Sequence[Message]], Answer],
        name: str = "scripted",
    ) -> None:
        if isinstance(answers, str):
            raise InputError("a scripted model takes a list of answers; give [text]")
        self.name = name
        self.traced = {trace.PROVIDER: trace.OURS}
        self.asked: list[tuple[Message, ...]] = []
        self._answers = answers if callable(answers) else list(answers)

    @trace.chat
    async def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """The next answer, up to a stop text; ``on_text`` is given it word by word.

        Raises:
            InputError: all answers were given.
        """
        self.asked.append(tuple(messages))
        if callable(self._answers):
            answer = self._answers(messages)
        elif len(self.asked) > len(self._answers):
            raise InputError(f"{self.name}: only {len(self._answers)} answers were written")
        else:
            answer = self._answers[len(self.asked) - 1]
        done = answer if isinstance(answer, Completion) else Completion(answer)
        ends = [at for text in stop if (at := done.text.find(text)) >= 0]
        done = replace(
            done, text=done.text[: min(ends, default=None)], model=self.name, scripted=True
        )
        for piece in re.findall(r"\S*\s*", done.text) if on_text is not None else ():
            if on_text is not None and piece:
                on_text(piece)
        return done
