"""Our own engine as a chat model: a base model, one stream, its own chat template.

Calls that are under way together are batched by the engine. Where a schema is given, a grammar
forces it, whatever the model would have said.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from stretto.agents import trace
from stretto.agents.chat_wire import Body, message_json
from stretto.agents.schemas import grammar_schema
from stretto.engine import Engine, Grammar, Limits, SamplingParams
from stretto.errors import CheckpointError, InputError
from stretto.protocols import Completion, FinishReason, Message, ToolCall, Usage

Template = Callable[[list[Body], list[Body]], str]
"""Messages and tools, in OpenAI's form, to the text that the model goes on with."""

MAX_TOKENS = 1024
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TOOLS = """You may call these tools, given as JSON:
{tools}
To call one, write <tool_call>{{"name": "...", "arguments": {{...}}}}</tool_call> and nothing else.
"""


class EngineChat:
    """A chat model that runs here; a :class:`stretto.protocols.ChatModel`.

    Args:
        engine: of a model with one stream.
        template: how it is spoken to.
        name: as logs name it.
        temperature: where a question names none; 0 is the likeliest answer.
        max_tokens: where a question names none.

    Raises:
        InputError: the engine's model has several streams.
    """

    scripted = False

    def __init__(
        self,
        engine: Engine,
        template: Template,
        name: str = "engine",
        *,
        temperature: float = 0.0,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        if len(engine.streams) != 1:
            names = ", ".join(engine.streams.names)
            raise InputError(f"{name}: a chat model has one stream, this one has {names}; "
                             "give a base model, such as smollm2-135m")  # fmt: skip
        self.name, self.engine = name, engine
        self.traced = {trace.PROVIDER: trace.OURS}
        self._template = template
        self._temperature, self._max_tokens = temperature, max_tokens
        self._special: list[str] | None = None

    @classmethod
    def load(cls, name_or_path: str | Path, *, backend: str = "auto", **options: Any) -> Self:
        """A base model by registered name, hub name or folder, with its own chat template.

        Args:
            name_or_path: the model.
            backend: as :meth:`stretto.engine.Engine.load`.
            options: further options of the same.

        Raises:
            CheckpointError: it cannot be loaded, or has no chat template.
        """
        template = load_template(name_or_path)
        engine = Engine.load(name_or_path, backend=backend, **options)
        return cls(engine, template, Path(name_or_path).name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Nothing to close; as other chat models have it."""

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
        """Answer; see :meth:`stretto.protocols.ChatModel.complete`.

        Without a seed, two samples differ. Calls of tools are read from ``<tool_call>`` marks; what
        cannot be read stays text.

        Raises:
            InputError: the conversation is too long for the model.
            LimitError: too many questions at once, or the cache is full.
        """
        prompt = self.prompt(messages, tools)
        grammar = None if schema is None else Grammar.json(grammar_schema(schema), pauses=False)
        warmth = self._temperature if temperature is None else temperature
        session = self.engine.open(
            prompts={self.engine.streams.names[0]: prompt},
            sampling=SamplingParams(temperature=warmth, grammar=grammar),
            limits=Limits(max_rows=max_tokens or self._max_tokens),
            seed=random.randrange(2**31) if seed is None else seed,
        )
        answer = _Answer(stop, on_text)
        session.close()
        async with session:
            async for row in session:
                answer.add("".join(row.text.values()))
                if answer.is_stopped:
                    session.cancel("stop")
                    break
        if session.finish_reason == "evicted" and session.error is not None:
            raise session.error
        answer.end()
        text, calls = split_calls(answer.text) if tools else (answer.text, ())
        finish: FinishReason = "length" if session.finish_reason == "max_rows" else "stop"
        usage = Usage(len(prompt), len(session.rows))
        return Completion(text, calls, "tool_calls" if calls else finish, usage, self.name)

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        A special token spelled out in a message stays text.
        """
        told, shown = [message_json(message) for message in messages], [dict(t) for t in tools]
        written: dict[str, str] = {}
        for message in told:
            content = message["content"] or ""
            if any(token in content for token in self._specials()):
                mark = f"[{uuid4().hex}]"
                written[mark], message["content"] = content, mark
        text = self._template(told, shown)
        if tools and text == self._template(told, []):  # the template has no place for tools
            listed = "\n".join(json.dumps(tool.get("function", tool)) for tool in tools)
            text = self._template(
                [{"role": "system", "content": _TOOLS.format(tools=listed)}, *told], []
            )
        codec, ids = self.engine.codec, []
        parts = re.split("|".join(map(re.escape, written)), text) if written else [text]
        contents = re.findall("|".join(map(re.escape, written)), text) if written else []
        for part, mark in zip(parts, [*contents, ""], strict=True):
            ids += codec.encode(part, markup=True) + codec.encode(written.get(mark, ""))
        return ids

    def _specials(self) -> list[str]:
        if self._special is None:
            added = json.loads(self.engine.codec.tokenizer_json).get("added_tokens") or ()
            self._special = [token["content"] for token in added if token.get("special")]
        return self._special


@cache
def open_chat(name: str) -> EngineChat:
    """The one of this process; what ``local:NAME`` stands for in a config of the commons."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would cover that of the runs
    return EngineChat.load(name)


class _Answer:
    """Text as it comes, up to a stop text."""

    def __init__(self, stop: Sequence[str], on_text: Callable[[str], None] | None) -> None:
        self.text, self.is_stopped = "", False
        self._stop, self._on_text = [each for each in stop if each], on_text
        self._given = 0  # characters

    def add(self, text: str) -> None:
        """More text; what may be the beginning of a stop text is not given yet."""
        before = len(self.text)
        self.text += text
        longest = max(map(len, self._stop), default=1) - 1
        ends = [at for stop in self._stop
                if (at := self.text.find(stop, max(0, before - longest))) >= 0]  # fmt: skip
        if ends:
            self.text, self.is_stopped = self.text[: min(ends)], True
        self._give(len(self.text) if ends else len(self.text) - longest)

    def end(self) -> None:
        """Nothing more comes."""
        self._give(len(self.text))

    def _give(self, upto: int) -> None:
        if self._on_text is not None and upto > self._given:
            self._on_text(self.text[self._given : upto])
            self._given = upto


def split_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Text without its ``<tool_call>`` marks, and the calls within; marks that cannot be read stay.

    >>> split_calls('Let me see. <tool_call>{"name": "add", "arguments": {"n": 1}}</tool_call>')
    ('Let me see. ', (ToolCall(id='call_0', name='add', arguments='{"n": 1}'),))
    """
    calls: list[ToolCall] = []

    def read(found: re.Match[str]) -> str:
        try:
            told = json.loads(found.group(1))
            each = [(call["name"], call.get("arguments") or {}) for call in
                    (told if isinstance(told, list) else [told])]  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError):
            return found.group(0)
        for name, arguments in each:
            written = arguments if isinstance(arguments, str) else json.dumps(arguments)
            calls.append(ToolCall(f"call_{len(calls)}", str(name), written))
        return ""

    return _CALL.sub(read, text), tuple(calls)


def load_template(name_or_path: str | Path) -> Template:
    """The chat template of a model's folder.

    Raises:
        CheckpointError: there is none.
    """
    from transformers import AutoTokenizer

    from stretto.models.store import resolve

    tokenizer: Any = AutoTokenizer.from_pretrained(resolve(str(name_or_path)))
    if not tokenizer.chat_template:
        raise CheckpointError(f"{name_or_path}: has no chat template; give an instructed model")

    def render(messages: list[Body], tools: list[Body]) -> str:
        return tokenizer.apply_chat_template(
            messages, tools=tools or None, tokenize=False, add_generation_prompt=True
        )

    return render
