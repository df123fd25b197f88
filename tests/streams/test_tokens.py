"""Text to ids and back, whole and token by token."""

import random

import pytest
from bpe_codec import MARKUP, bpe_codec, codecs
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stretto.errors import CheckpointError, InputError
from stretto.streams import READ, SpecialIds, StreamCodec, text_table

_BYTE_F1 = "\u00f1"  # how the byte-level alphabet writes the byte 0xF1

_PIECES = (
    "def f(x):\n    return {x: [1, 2]}\n", "\t\tif a != b:\r\n", "  trailing  \n\n\n", "\u00a0",
    "👩‍🚀", "👨‍👩‍👧‍👦", "🇩🇪", "e\u0301", "é", "한국어", "日本語", "\u200b", "\ufeff",
    "\U0001d518\U0001d52b",
    "שלום", "مرحبا بالعالم", "\u202eabc\u202c", "हिन्दी", "ไทย", "\x00", "\x1b[31m", "\ufffd",
    "<|im_end|>", "<|endoftext|>", "1,234.50", "  ", "\n", "word", " word", "don't", "—…“”",
)  # fmt: skip


def random_text(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.7:
            parts.append(rng.choice(_PIECES))
        else:
            char = chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x40000)]))
            # SmolLM2 has no bytes for the planes that Unicode has not opened yet.
            parts.append(char)
    return "".join(parts)


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: codec.name.rpartition("/")[2])
def test_a_thousand_texts_survive_a_table(codec: StreamCodec) -> None:
    rng = random.Random(0)
    for _ in range(1000):
        text, other = random_text(rng), random_text(rng)
        table = text_table(READ, codec, {"user": [text], "answer": [other]})
        assert table.text("user") == text
        assert table.text("answer") == other
        decoder = codec.decoder()
        pieces = [decoder.push(token) for token in table.column("user")]
        assert "".join(pieces) + decoder.flush() == text


@given(st.text())
def test_any_text_survives(text: str) -> None:
    codec = bpe_codec()
    ids = codec.encode(text)
    assert codec.decode(ids) == text
    decoder = codec.decoder()
    assert "".join(map(decoder.push, ids)) + decoder.flush() == text


def test_no_half_character_is_emitted() -> None:
    codec = bpe_codec()
    text = "a🦕b👩🏽‍🔬c"
    decoder = codec.decoder()
    pieces = [decoder.push(token) for token in codec.encode(text)]
    assert "" in pieces  # a character needs several tokens
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.text(min_size=1))
def test_ends_count_complete_characters(text: str) -> None:
    codec = bpe_codec()
    ids, ends = codec.encode_ends(text)
    assert ends == sorted(ends) and ends[-1] == len(text)
    for i, end in enumerate(ends):
        assert codec.decode(ids[: i + 1]).startswith(text[:end])


@given(st.text(min_size=1))
def test_spans_say_which_characters_a_token_touches(text: str) -> None:
    codec = bpe_codec()
    ids, spans = codec.encode_spans(text)
    assert ids == codec.encode(text)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    for i, (start, end) in enumerate(spans):
        assert codec.decode(ids[:i]).startswith(text[:start])
        assert start < end and (i == 0 or start in (spans[i - 1][1], spans[i - 1][1] - 1))


@given(st.lists(st.integers(0, 511), max_size=40))
def test_pushing_gives_what_decoding_gives(ids: list[int]) -> None:
    codec = bpe_codec()
    decoder = codec.decoder()
    assert "".join(map(decoder.push, ids)) + decoder.flush() == codec.decode(ids)


def test_a_written_replacement_character_does_not_delay_the_rest() -> None:
    codec = bpe_codec()
    decoder = codec.decoder()
    pieces = [decoder.push(token) for token in codec.encode("a\ufffdb\ufffd" + "x" * 20)]
    assert "".join(pieces).startswith("a\ufffdb\ufffdxx")
    assert pieces[-1].endswith("x")


def test_what_the_vocabulary_cannot_spell_becomes_one_replacement_character() -> None:
    alphabet = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c != _BYTE_F1]
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    codec = StreamCodec(tokenizer.to_str(), SpecialIds.after(256))
    text = "a\U00040000b\U0007ffffc🚀\U000c0000é\U0003ffff"
    assert codec.decode(codec.encode(text)) == text.replace("\U00040000", "\ufffd").replace(
        "\U0007ffff", "\ufffd"
    )
    assert len(codec.encode_spans("\U00040000")[0]) == 3


def test_markup_in_a_text_stays_text() -> None:
    codec = bpe_codec()
    text = "".join(MARKUP)
    special = [codec.token_id(token) for token in MARKUP]
    assert codec.encode(text, markup=True) == special
    assert not set(codec.encode(text)) & set(special)
    assert codec.decode(codec.encode(text)) == text


def test_special_ids_are_no_text() -> None:
    codec = bpe_codec()
    ids = codec.encode("ab")
    silence, end = codec.special.silence, codec.special.end
    assert codec.decode([silence, *ids, end, -1]) == "ab"
    decoder = codec.decoder()
    assert [decoder.push(token) for token in (silence, end, -1)] == ["", "", ""]


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="UTF-8"):
        bpe_codec().encode("\ud800")
    with pytest.raises(InputError, match="UTF-8"):
        bpe_codec().encode_spans("\ud800")


def test_loading_needs_a_tokeniser_that_fits(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        StreamCodec.load(tmp_path, 512)
    (tmp_path / "tokenizer.json").write_text(bpe_codec().tokenizer_json, encoding="utf-8")
    assert StreamCodec.load(tmp_path, 512).encode("abc") == bpe_codec().encode("abc")
    with pytest.raises(CheckpointError, match="tokens, but the model has 300 rows"):
        StreamCodec.load(tmp_path, 300)
