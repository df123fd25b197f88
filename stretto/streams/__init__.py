"""What a conversation in streams is. Needs numpy and tokenizers, never torch."""

from stretto.streams.sets import AGENT, AUDIT, MINDS, READ, SINGLE, stream_set, townhall, union
from stretto.streams.stream import Stream, StreamSet
from stretto.streams.table import IGNORE, Cells, StreamTable, text_table
from stretto.streams.tokens import ABSENT, SpecialIds, StreamCodec, StreamDecoder

__all__ = [
    "ABSENT",
    "AGENT",
    "AUDIT",
    "IGNORE",
    "MINDS",
    "READ",
    "SINGLE",
    "Cells",
    "SpecialIds",
    "Stream",
    "StreamCodec",
    "StreamDecoder",
    "StreamSet",
    "StreamTable",
    "stream_set",
    "text_table",
    "townhall",
    "union",
]
