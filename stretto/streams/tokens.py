"""Text to token ids and back, losslessly, with two ids that no text can produce.

Every stream is tokenised as ordinary text: whitespace, newlines and the layout of code survive,
and a special token spelled out in a user's text stays text.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer

from stretto.errors import CheckpointError, InputError

ABSENT = -1
"""No token at all in this cell."""

_HELD_TOKENS = 8
# A character is at most four byte tokens; a longer run that still decodes to U+FFFD is not the
# start of anything.


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the two tokens stretto adds; they lie just behind the base model's vocabulary."""

    silence: int
    end: int

    @classmethod
    def after(cls, vocab_size: int) -> "SpecialIds":
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
    def _markup(self) -> Tokenizer:
        return Tokenizer.from_str(self.tokenizer_json)

    @cached_property
    def _plain(self) -> Tokenizer:
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.encode_special_tokens = True
        return tokenizer

    def encode(self, text: str, *, markup: bool = False) -> list[int]:
        """Token ids of ``text``; ``markup=True`` reads special tokens such as ``<|im_start|>``.

        Raises:
            InputError: the text holds half a surrogate pair, which no file can store.
        """
        tokenizer = self._markup if markup else self._plain
        try:
            return tokenizer.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise InputError(f"text cannot be encoded as UTF-8: {error}") from None

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Where each token of ``encode(text)`` begins and ends in the text, in characters."""
        return self._plain.encode(text, add_special_tokens=False).offsets

    def encode_ends(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of ``text``, and after each token the number of characters read completely."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        starts = [start for start, _ in encoding.offsets[1:]]
        # A character cut into several tokens is complete when a later one begins.
        pairs = zip(encoding.offsets, [*starts, len(text)], strict=False)
        return encoding.ids, [min(end, following) for (_, end), following in pairs]

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


class StreamDecoder:
    """Incremental detokeniser of one stream; never emits half a character.

    Joining everything :meth:`push` and :meth:`flush` returned gives what decoding all ids at once
    gives.
    """

    def __init__(self, codec: StreamCodec) -> None:
        self._codec = codec
        self._context: list[int] = []
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Take one token; return the text that is complete now, possibly empty."""
        special = self._codec.special
        if token < 0 or token in (special.silence, special.end):
            return ""
        self._held.append(token)
        text = self._new_text()
        if text.endswith("�") and len(self._held) < _HELD_TOKENS:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """Return what is still held; to be called at the end of a message."""
        return self._release(self._new_text()) if self._held else ""

    def _new_text(self) -> str:
        # Some tokenisers strip a leading space of the first word only, so the text is decoded
        # with the token before it and the difference is what is new.
        before = self._codec.decode(self._context)
        return self._codec.decode(self._context + self._held)[len(before) :]

    def _release(self, text: str) -> str:
        self._context, self._held = self._held[-_HELD_TOKENS:], []
        return text
