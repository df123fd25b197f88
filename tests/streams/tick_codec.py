"""A tokeniser of single bytes, for tests that need real text but no model."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stretto.streams import SpecialIds, StreamCodec


@cache
def byte_codec() -> StreamCodec:
    """Every text is its UTF-8 bytes, one token each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return StreamCodec(tokenizer.to_str(), SpecialIds.after(len(alphabet)), name="bytes")
