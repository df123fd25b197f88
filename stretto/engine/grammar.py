"""What a stream's message may say: a JSON schema, a regular expression, a Lark grammar, tools.

:class:`Grammar` is plain data of the sampling parameters. A :class:`GrammarCompiler` turns it, with
llguidance (extra ``grammar``), into a :class:`MessageMatcher`: how far one message has come.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stretto.errors import ConfigError, InputError
from stretto.streams import StreamCodec

KINDS = ("json", "regex", "lark")
KEPT = 64
"""Compiled grammars that an engine keeps, in case they are asked for again."""
WHITE_SPACE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's settings for JSON. By default it may hold any amount of white space, and a model in
doubt writes nothing else. Lark grammars name them at each schema, under ``x-guidance``."""


@dataclass(frozen=True)
class Grammar:
    """What each message of a stream, from waking to ``end``, has to look like.

    Attributes:
        kind: ``json`` (a schema), ``regex`` or ``lark``.
        source: the schema as JSON text, the expression or the grammar.
        pauses: whether silence may be said within a message; before its first token it always may,
            as far as the sampling parameters allow silence at all.
        once: only the first message is to be one of these; those behind it stay empty.
    """

    kind: str
    source: str
    pauses: bool = True
    once: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"grammar kind is {self.kind!r}; give {', '.join(KINDS)}")
        if not isinstance(self.source, str):
            raise ConfigError(f"grammar source is {self.source!r}; give text")

    @classmethod
    def json(
        cls, schema: Mapping[str, Any] | bool, *, pauses: bool = True, once: bool = False
    ) -> Self:
        """A value that a JSON schema accepts; at most single spaces between its parts."""
        return cls("json", json.dumps(schema), pauses, once)

    @classmethod
    def regex(cls, expression: str, *, pauses: bool = True, once: bool = False) -> Self:
        """A text that the whole expression matches (syntax of Rust's ``regex``)."""
        return cls("regex", expression, pauses, once)

    @classmethod
    def lark(cls, grammar: str, *, pauses: bool = True, once: bool = False) -> Self:
        """A text that the rule ``start`` of a Lark grammar derives."""
        return cls("lark", grammar, pauses, once)

    @classmethod
    def tools(cls, tools: Sequence[Mapping[str, Any]], *, pauses: bool = True) -> Self:
        """One call, ``{"name": ..., "arguments": {...}}``, of one of these tools.

        Args:
            tools: signatures, each ``{"name": ..., "parameters": JSON schema}`` or the same under
                ``function``, as OpenAI and MCP clients write them; ``description`` is not needed.
            pauses: as the attribute.

        Raises:
            ConfigError: no tools, or one without a name.
        """
        if not tools:
            raise ConfigError("grammar: no tools to call; give at least one signature")
        return cls.json({"anyOf": [_call(tool) for tool in tools]}, pauses=pauses)


def _call(tool: Mapping[str, Any]) -> dict[str, Any]:
    tool = tool.get("function", tool)
    if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
        raise ConfigError(f"grammar: tool {str(tool)[:60]!r} has no name")
    arguments = tool.get("parameters") or {"type": "object", "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


class GrammarCompiler:
    """Compiles grammars for one tokeniser, and keeps the ``KEPT`` that were asked for last.

    Args:
        codec: the model's tokeniser.
    """

    def __init__(self, codec: StreamCodec) -> None:
        self._codec = codec
        self._made: dict[Grammar, Any] = {}

    def matcher(self, grammar: Grammar, stop_ids: Sequence[int] = ()) -> "MessageMatcher":
        """A matcher before the first token of a message.

        Args:
            grammar: what the message may say.
            stop_ids: tokens that count as ``end``.

        Raises:
            InputError: llguidance is not installed, or cannot read the grammar.
        """
        made = self._made.pop(grammar, None) or self._compile(grammar)
        self._made[grammar] = made  # the latest last
        if len(self._made) > KEPT:
            self._made.pop(next(iter(self._made)), None)
        special = self._codec.special
        shape = _Shape(
            self._codec.num_tokens, special.silence, special.end, list(stop_ids),
            grammar.pauses, grammar.once,
        )  # fmt: skip
        return MessageMatcher(made.deep_copy(), shape)

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokeniser, with an end of text that is none of the vocabulary's tokens."""
        data = json.loads(self._codec.tokenizer_json)
        tokens = self._codec.num_tokens
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        end = {"id": tokens, "content": "<|end of a stretto message|>", "special": True}
        data["added_tokens"] = [*(data.get("added_tokens") or ()), end | flags]
        return _library().LLTokenizer(json.dumps(data), eos_token=tokens)

    def _compile(self, grammar: Grammar) -> Any:
        library = _library()
        make = {
            "json": library.LLMatcher.grammar_from_json_schema,
            "regex": library.LLMatcher.grammar_from_regex,
            "lark": library.LLMatcher.grammar_from_lark,
        }[grammar.kind]
        try:
            options = {"defaults": WHITE_SPACE} if grammar.kind == "json" else {}
            source = make(grammar.source, **options)
            matcher = library.LLMatcher(self._tokenizer, source, log_level=0)
        except ValueError as error:
            raise _refused(grammar, str(error)) from None
        if matcher.is_error():
            raise _refused(grammar, matcher.get_error())
        return matcher


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise InputError(
            "grammar-constrained streams need llguidance: pip install 'stretto[grammar]'"
        ) from None
    return llguidance


def _refused(grammar: Grammar, why: str) -> InputError:
    return InputError(f"grammar ({grammar.kind}) cannot be read: {' '.join(why.split())[:200]}")


@dataclass(frozen=True)
class _Shape:
    num_tokens: int  # of the tokeniser; the model may have more rows
    silence: int
    end: int
    stop_ids: list[int]
    pauses: bool
    once: bool


class MessageMatcher:
    """How far one message has come in its grammar.

    Args:
        matcher: llguidance's, at the beginning.
        shape: special ids, and where silence may stand.
    """

    def __init__(self, matcher: Any, shape: _Shape) -> None:
        self._matcher, self._shape = matcher, shape
        self._has_begun = self._is_done = False
        self._mask: npt.NDArray[np.bool_] | None = None

    def copy(self) -> "MessageMatcher":
        """The same state, that goes its own way: for a snapshot of its session."""
        other = MessageMatcher(self._matcher.deep_copy(), self._shape)
        other._has_begun, other._mask = self._has_begun, self._mask
        other._is_done = self._is_done
        return other

    def advance(self, token: int) -> None:
        """Take a cell of the stream: content goes on, ``end`` starts over, silence is nothing.

        A message that was cut (``max_message_tokens``) may end where the grammar does not.
        """
        if token == self._shape.silence or token < 0:
            return
        self._mask = None
        if token == self._shape.end:
            self._matcher.reset()
            self._has_begun, self._is_done = False, self._shape.once
        else:
            self._matcher.consume_token(token)
            self._has_begun = True

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next (V + 2), silence and ``end`` included.

        ``end`` and stop ids may come where the message is complete. If nothing else may come (the
        grammar has grown beyond llguidance's limits), ``end`` may.
        """
        if self._mask is None:
            self._mask = self._next()
        return self._mask

    def _next(self) -> npt.NDArray[np.bool_]:
        shape = self._shape
        mask = np.zeros(shape.end + 1, bool)
        if self._is_done:
            mask[[*shape.stop_ids, shape.end, shape.silence]] = True
            return mask
        is_over = self._matcher.is_error() or self._matcher.is_accepting()
        if not self._matcher.is_error():
            packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            bits = np.unpackbits(packed, count=shape.num_tokens, bitorder="little")
            mask[: shape.num_tokens] = bits
        mask[[*shape.stop_ids, shape.end]] = is_over or not mask.any()
        mask[shape.silence] = shape.pauses or not self._has_begun
        return mask
