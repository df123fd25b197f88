"""Chat completions on the wire: what is sent, what comes back, and what an endpoint may refuse.

The form is OpenAI's, which hosted and local servers share, more or less: absent fields, empty
choices and unknown finish reasons are read as well as they can be.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from stretto.agents.chat_errors import PassingError
from stretto.protocols import Completion, FinishReason, Message, ToolCall, Usage

Body = dict[str, Any]

_FINISH: dict[str, FinishReason] = {
    "stop": "stop", "length": "length", "max_tokens": "length", "tool_calls": "tool_calls",
    "function_call": "tool_calls", "content_filter": "content_filter", "refusal": "refusal",
}  # fmt: skip
_FILTERS = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


class Prices(NamedTuple):
    """US dollars per million tokens, as the endpoint's owner publishes them.

    Attributes:
        prompt: of the prompt.
        completion: of the answer.
        cached_prompt: of the part of the prompt that the endpoint has in a cache of its own; as
            ``prompt`` if None.
    """

    prompt: float
    completion: float
    cached_prompt: float | None = None

    def cost(self, prompt: int, completion: int, cached: int) -> float:
        """Dollars for so many tokens; ``cached`` is part of ``prompt``."""
        of_cached = self.prompt if self.cached_prompt is None else self.cached_prompt
        total = (prompt - cached) * self.prompt + cached * of_cached + completion * self.completion
        return total / 1e6


def message_json(message: Message) -> Body:
    """A message as chat completions take it."""
    made: Body = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["content"] = message.content or None
        made["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def request(
    model: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    schema: Mapping[str, Any] | None = None,
    logprobs: bool = False,
    **options: Any,
) -> Body:
    """The body of a request; ``options`` that are None or empty are left out."""
    body: Body = {"model": model, "messages": [message_json(message) for message in messages]}
    if tools:
        body["tools"] = [dict(tool) for tool in tools]
    if schema is not None:
        form = {"name": "answer", "schema": dict(schema), "strict": _is_strict(schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if logprobs:
        body["logprobs"] = True
    return body | {key: value for key, value in options.items() if value not in (None, (), [])}


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, as hexadecimal text. The order of keys counts: models see it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_strict(schema: Any) -> bool:
    """Whether every object is closed and needs all it may have, as OpenAI's strict mode asks."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("properties"), Mapping) and (
            schema.get("additionalProperties") is not False
            or set(schema["properties"]) != set(schema.get("required", ()))
        ):
            return False
        return all(_is_strict(part) for part in schema.values())
    return not isinstance(schema, list) or all(_is_strict(part) for part in schema)


# What an endpoint refuses, it is asked without. Each is tried once and then remembered.

CONCESSIONS = {
    "json_schema": "takes no JSON schema: it is asked for a JSON object, the schema in the prompt",
    "json_object": "forces no JSON: the schema stands in the prompt only",
    "max_tokens": "takes max_completion_tokens in place of max_tokens",
    "seed": "takes no seed: its answers may differ from run to run",
    "logprobs": "tells no log-probabilities",
    "stream_options": "tells no usage while streaming",
}


def concede(body: Body, given: set[str], told: str) -> str | None:
    """The next thing to do without, from what a refusal told; None if nothing is left to try.

    Args:
        body: as it would be sent if everything were taken.
        given: what was conceded already.
        told: the endpoint's message.
    """
    now, told = adapt(body, given), told.lower()
    form = now.get("response_format", {}).get("type")
    for name in CONCESSIONS:
        if name in now and name in told and name != "json_schema":
            return name
    # A refusal that names nothing known is blamed on the schema, the least common of them.
    return form


def adapt(body: Body, given: set[str]) -> Body:
    """The body without what was conceded; the one given is left as it is."""
    body = dict(body)
    for name in ("seed", "logprobs", "stream_options"):
        if name in given:
            body.pop(name, None)
    if "max_tokens" in given and "max_tokens" in body:
        body["max_completion_tokens"] = body.pop("max_tokens")
    if "json_schema" in given and "response_format" in body:
        schema = body.pop("response_format")["json_schema"]["schema"]
        text = json.dumps(schema, ensure_ascii=False)
        ask = f"Answer with one JSON value and nothing else. It must satisfy this schema:\n{text}"
        body["messages"] = [*body["messages"], {"role": "system", "content": ask}]
        if "json_object" not in given:
            body["response_format"] = {"type": "json_object"}
    return body


# What comes back.


def parse(text: str) -> Body:
    """An answer's body. Pages of gateways and errors under status 200 pass, one hopes."""
    try:
        answer = json.loads(text)
    except ValueError:
        raise PassingError("the answer is not JSON") from None
    if not isinstance(answer, dict) or (answer.get("error") and not answer.get("choices")):
        raise PassingError(f"the answer is {text[:200]}")
    return answer


class Said:
    """What ``on_text`` has been given; an answer that is begun again goes on where it was cut."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text, self._given = on_text, ""

    def tell(self, text: str) -> bool:
        """Give what is new of the text so far; False if it contradicts what was given."""
        if text.startswith(self._given):
            new, self._given = text[len(self._given) :], text
            if new:
                self._on_text(new)
            return True
        return self._given.startswith(text)


class Pieces:
    """A streamed answer, put together."""

    def __init__(self) -> None:
        self.text = ""
        self.is_whole = False
        self._refusal, self._finish = "", None
        self._calls: dict[int, Body] = {}
        self._rest: Body = {}
        self._logprobs: list[Any] = []

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in one chunk."""
        self._rest |= {key: chunk[key] for key in ("model", "usage") if chunk.get(key)}
        # An endpoint that forgets the finish reason may still say what it took.
        self.is_whole = self.is_whole or bool(chunk.get("usage"))
        for choice in (chunk.get("choices") or ())[:1]:
            delta = choice.get("delta") or {}
            self.text += _text(delta.get("content"))
            self._refusal += delta.get("refusal") or ""
            self._logprobs += (choice.get("logprobs") or {}).get("content") or ()
            if choice.get("finish_reason"):
                self._finish, self.is_whole = choice["finish_reason"], True
            for number, part in enumerate(delta.get("tool_calls") or ()):
                self._call(part.get("index", number), part)

    def answer(self) -> Body:
        """The same as if it had come at once."""
        calls = [self._calls[index] for index in sorted(self._calls)]
        message = {"content": self.text, "refusal": self._refusal, "tool_calls": calls}
        choice = {"message": message, "finish_reason": self._finish}
        return self._rest | {"choices": [choice | {"logprobs": {"content": self._logprobs}}]}

    def _call(self, index: int, part: Mapping[str, Any]) -> None:
        call = self._calls.setdefault(index, {"id": "", "function": {"name": "", "arguments": ""}})
        call["id"] = call["id"] or part.get("id") or ""
        function = part.get("function") or {}
        for key in ("name", "arguments"):
            call["function"][key] += function.get(key) or ""


def completion(answer: Mapping[str, Any], model: str, prices: Prices | None) -> Completion:
    """What an endpoint answered. No choice at all is an empty answer."""
    choice = (answer.get("choices") or ({},))[0]
    message = choice.get("message") or {}
    text, refusal = _text(message.get("content")), message.get("refusal") or ""
    calls = tuple(_call(call, i) for i, call in enumerate(message.get("tool_calls") or ()))
    finish = _FINISH.get(str(choice.get("finish_reason")), "stop")
    if refusal:
        finish = "refusal"
    elif calls and finish == "stop":
        finish = "tool_calls"
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return Completion(
        text or refusal,
        calls,
        finish,
        _usage(answer.get("usage") or {}, prices),
        answer.get("model") or model,
        logprob=sum(token["logprob"] for token in tokens) if tokens else None,
    )


def filtered(code: str | None, told: str, model: str) -> Completion | None:
    """What a content filter's error means: an answer that was kept back. None for other errors."""
    if any(name == code or name in told for name in _FILTERS):
        return Completion("", finish_reason="content_filter", model=model)
    return None


def to_json(done: Completion) -> Body:
    """As a cache keeps it."""
    return asdict(done)


def from_json(kept: Mapping[str, Any]) -> Completion:
    """A kept completion: cached, and nothing is paid for it."""
    calls = tuple(ToolCall(**call) for call in kept["tool_calls"])
    return Completion(**{**kept, "tool_calls": calls, "usage": Usage(), "cached": True})


def _text(content: Any) -> str:
    """Text of a content, which some servers give in parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _call(call: Mapping[str, Any], number: int) -> ToolCall:
    function = call.get("function") or {}
    arguments = function.get("arguments") or ""
    if not isinstance(arguments, str):  # some servers give the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(call.get("id") or f"call_{number}", function.get("name") or "", arguments)


def _usage(told: Mapping[str, Any], prices: Prices | None) -> Usage:
    prompt, made = told.get("prompt_tokens") or 0, told.get("completion_tokens") or 0
    cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(prompt, made, prices.cost(prompt, made, cached) if prices else 0.0)
