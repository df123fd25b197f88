"""An engine without a model: it says what it is told to, a token a tick, 50 ms each."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from stretto.streams import ABSENT, READ, SpecialIds, StreamCodec, StreamTable, stream_set

TICK_S = 0.05

Script = Callable[[str, str], str]


class ScriptedSession:
    """Reads everything in its first tick, then says its text and ends."""

    def __init__(self, engine: "ScriptedEngine", streams: str, prompts: Mapping[str, Any]) -> None:
        self.streams, self.codec = stream_set(streams), engine.codec
        self.prompts = {
            name: self.codec.encode(ids) if isinstance(ids, str) else list(ids)
            for name, ids in prompts.items()
        }
        self.output = "text" if streams == "single" else "answer"
        self.finish_reason: str | None = None
        self.rows: list[Any] = []
        self._engine, self._sent = engine, ""
        self.table = StreamTable(self.streams, self.codec.special, self.prompts, codec=self.codec)

    def send(self, name: str, text: str, rate: float | None = None) -> None:
        assert name == "user"
        self._sent = text

    def close(self, name: str | None = None) -> None:
        asked = self._sent or self.codec.decode(
            self.prompts["user" if "user" in self.prompts else "text"]
        )
        special = self.codec.special
        said = [*self.codec.encode(self._engine.script(self.output, asked)), special.end]
        if self.output == "answer":
            said.insert(0, special.silence)
            lane = [*self.codec.encode(self._sent), special.end]
            for token in lane[:-1]:
                self._add({"user": token})
            self._add({"user": lane[-1], "answer": said.pop(0)}, ticks=1)
        self._todo = said

    def tick(self) -> None:
        self._add({self.output: self._todo.pop(0)}, ticks=1)
        if not self._todo:
            self.finish_reason = "end"

    def _add(self, tokens: dict[str, int], ticks: int = 0) -> None:
        self.table.append_row(tokens)
        time = (self.rows[-1].time if self.rows else 0.0) + ticks * TICK_S
        self.rows.append(SimpleNamespace(index=len(self.rows), tokens=tokens, time=time))


class ScriptedEngine:
    """What evals use of an engine."""

    def __init__(self, codec: StreamCodec, script: Script) -> None:
        self.codec, self.script = codec, script
        self.sessions: list[ScriptedSession] = []
        self.opened = 0

    def open(self, *, streams: str, prompts: Mapping[str, Any], **options: Any) -> ScriptedSession:
        assert set(options) == {"sampling", "limits", "clock"}
        self.opened += 1
        self.sessions.append(ScriptedSession(self, streams, prompts))
        return self.sessions[-1]

    def step(self) -> list[ScriptedSession]:
        stepped = self.sessions
        for session in stepped:
            session.tick()
        self.sessions = [s for s in stepped if s.finish_reason is None]
        return stepped

    def run(self, sessions: list[ScriptedSession]) -> None:
        while any(s.finish_reason is None for s in sessions):
            self.step()


def letter_codec() -> StreamCodec:
    """A token a character, and the markup of the chat template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    letters = [chr(i) for i in range(32, 127)] + ["\n"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    return StreamCodec(tokenizer.to_str(), SpecialIds.after(tokenizer.get_vocab_size()))


def read_table(codec: StreamCodec, lanes: list[tuple[str, str]]) -> StreamTable:
    """A ``READ`` table from (user, answer) cells a row: a letter, ``.`` silence, ``$`` end."""
    special = {".": codec.special.silence, "$": codec.special.end, "": ABSENT}
    rows = [[special[c] if c in special else codec.encode(c)[0] for c in pair] for pair in lanes]
    return StreamTable(READ, codec.special, rows=np.array(rows, np.int32), codec=codec)
