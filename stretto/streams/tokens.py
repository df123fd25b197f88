"""Text to token ids and back, losslessly, with two ids that no text can produce.

Every stream is tokenised as ordinary text: whitespace, newlines and the layout of code survive,
and a special token spelled out in a user's text stays text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding, Tokenizer, pre_tokenizers

from stretto.errors import CheckpointError, InputError

ABSENT = -1
"""No token at all in this cell."""

_CONTEXT_TOKENS = 8
_MAX_HELD = 512
# A run that never decodes to whole characters is let go at some point; words never come near it.


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the two tokens stretto adds; they lie just behind the base model's vocabulary."""

    silence: int
    end: int

    @classmethod
    def after(cls, vocab_size: int) -> "SpecialIds":
        """The first two ids that a vocabulary of ``vocab_size`` rows does not have."""
        return cls(silence=vocab_size, end=vocab_size + 1)


@dataclass(frozen=True)
class StreamCodec:
    """Tokeniser of all streams of one model.

    Attributes:
        tokenizer_json: the serialised ``tokenizers`` tokeniser.
        special: ids of silence and end.
        name: what it was loaded from, for messages.
    """

    tokenizer_json: str = field(repr=False)
    special: SpecialIds
    name: str = "tokenizer"

    @classmethod
    def load(cls, folder: str | Path, vocab_size: int) -> "StreamCodec":
        """Read ``tokenizer.json`` of a model folder; ``vocab_size`` is the model's, in rows.

        Raises:
            CheckpointError: the file is missing or unreadable.
        """
        path = Path(folder) / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{path}: no tokenizer here ({error.strerror})") from None
        codec = cls(text, SpecialIds.after(vocab_size), name=str(folder))
        size = codec._plain.get_vocab_size(with_added_tokens=True)
        if size > vocab_size:
            raise CheckpointError(f"{path}: {size} tokens, but the model has {vocab_size} rows")
        return codec

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of the tokeniser; a model may have more rows than these."""
        return self._plain.get_vocab_size(with_added_tokens=True)

    @cached_property
    def _markup(self) -> Tokenizer:
        return Tokenizer.from_str(self.tokenizer_json)

    @cached_property
    def _plain(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.encode_special_tokens = True
        return tokenizer

    def encode(self, text: str, *, markup: bool = False) -> list[int]:
        """Token ids of ``text``; ``markup=True`` reads special tokens such as ``<|im_start|>``.

        A character that the vocabulary cannot spell becomes U+FFFD (never a character in use).

        Raises:
            InputError: the text holds half a surrogate pair, which no file can store.
        """
        return _encode(self._markup if markup else self._plain, self._spelled(text)).ids

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of ``text``, and which characters (first, one past the last) each touches.

        Raises:
            InputError: as :meth:`encode`.
        """
        encoding = _encode(self._plain, self._spelled(text))
        return encoding.ids, encoding.offsets

    def encode_ends(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of ``text``, and after each token the number of characters read completely.

        Raises:
            InputError: as :meth:`encode`.
        """
        ids, spans = self.encode_spans(text)
        # A character cut into several tokens is complete when a later one begins.
        following = [start for start, _ in spans[1:]] + [len(text)]
        return ids, [min(end, start) for (_, end), start in zip(spans, following, strict=False)]

    def _spelled(self, text: str) -> str:
        return self._unspelled.sub("\ufffd", text) if self._unspelled else text

    @cached_property
    def _unspelled(self) -> re.Pattern[str] | None:
        """Characters that the vocabulary has no bytes for; SmolLM2 lacks unassigned planes."""
        if '"ByteLevel"' not in self.tokenizer_json:
            return None
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        missing = [
            f"{re.escape(chr(first))}-{re.escape(chr(last))}"
            for first, last in _characters_by_first_byte()
            if self.token_id(to_bytes.pre_tokenize_str(chr(first))[0][0][0]) is None
        ]
        return re.compile(f"[{''.join(missing)}]") if missing else None

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; silence, end and absent cells are left out."""
        words = [i for i in ids if i >= 0 and i not in (self.special.silence, self.special.end)]
        return self._markup.decode(words, skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        """Id of a token by its exact spelling, if the vocabulary has it."""
        return self._markup.token_to_id(token)

    def decoder(self) -> "StreamDecoder":
        """A fresh incremental decoder for one stream."""
        return StreamDecoder(self)


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except (UnicodeEncodeError, TypeError):
        # What tokenizers says of a surrogate differs from version to version.
        raise InputError(f"text cannot be encoded as UTF-8: {text[:40]!r}") from None


def _characters_by_first_byte() -> Iterator[tuple[int, int]]:
    """Ranges of code points, first and last, whose UTF-8 forms begin with the same byte."""
    yield from ((code, code) for code in range(0x80))
    yield from ((code, code + 0x3F) for code in range(0x80, 0x800, 0x40))
    yield from ((max(code, 0x800), code + 0xFFF) for code in range(0, 0xD000, 0x1000))
    yield from ((0xD000, 0xD7FF), (0xE000, 0xEFFF), (0xF000, 0xFFFF))
    starts = (0x10000, *range(0x40000, 0x110000, 0x40000))
    yield from ((code, min(code | 0x3FFFF, 0x10FFFF)) for code in starts)


class StreamDecoder:
    """Incremental detokeniser of one stream; never emits half a character.

    Joining everything :meth:`push` and :meth:`flush` returned gives what decoding all ids at once
    gives.
    """

    def __init__(self, codec: StreamCodec) -> None:
        self._codec = codec
        self._context: list[int] = []
        self._held: list[int] = []
        self._told = 0  # characters of what is held that were returned already

    def copy(self) -> "StreamDecoder":
        """The same state, that goes its own way."""
        other = StreamDecoder(self._codec)
        other._context, other._held, other._told = [*self._context], [*self._held], self._told
        return other

    def push(self, token: int) -> str:
        """Take one token; return the text that is complete now, possibly empty."""
        special = self._codec.special
        if token < 0 or token in (special.silence, special.end):
            return ""
        self._held.append(token)
        text = self._held_text()
        # A last U+FFFD may be the start of a character, or one that was written: the next token
        # will tell. What stands before it is certain.
        if text.endswith("\ufffd") and len(self._held) < _MAX_HELD:
            new, self._told = text[self._told : -1], len(text) - 1
            return new
        return self._release(text)

    def flush(self) -> str:
        """Return what is still held; to be called at the end of a message."""
        return self._release(self._held_text()) if self._held else ""

    def _held_text(self) -> str:
        # Some tokenisers strip a leading space of the first word only, so the text is decoded
        # with the token before it and the difference is what is new.
        before = self._codec.decode(self._context)
        return self._codec.decode(self._context + self._held)[len(before) :]

    def _release(self, text: str) -> str:
        new = text[self._told :]
        self._context, self._held, self._told = self._held[-_CONTEXT_TOKENS:], [], 0
        return new
