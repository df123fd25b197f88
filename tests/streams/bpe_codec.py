"""A small byte-level BPE tokeniser, trained on the spot, and the real one where it is cached."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stretto.errors import CheckpointError
from stretto.streams import SpecialIds, StreamCodec

_LINES = (
    "The total is 12*4 = 48 legs, so the answer is 48.\n\nAnswer: 48",
    "step 1: ok\nstep 2: wrong, 3 + 4 = 7\nverdict: wrong lag 0: lag 1: lag all:",
    "def add(a, b):\n    return a + b\n\n\tfor i in range(10):\n        print(i)",
    "How many apples does the teacher have in all? The teacher has three baskets.",
    "naïve café — “quoted” … שלום עולם مرحبا بالعالم 你好世界 👩‍🚀🚀",
)
MARKUP = ("<|im_start|>", "<|im_end|>")


@cache
def bpe_codec() -> StreamCodec:
    """512 tokens: bytes, merges, and the two markup tokens of the chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(MARKUP),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    return StreamCodec(tokenizer.to_str(), SpecialIds.after(512), name="bpe")


@cache
def real_codec() -> StreamCodec | None:
    """SmolLM2's tokeniser if it has been pulled before; tests never fetch it."""
    from stretto.models.store import cache_dir

    try:
        return StreamCodec.load(cache_dir() / "models" / "smollm2-135m", 49152)
    except CheckpointError:
        return None


def codecs() -> list[StreamCodec]:
    """Every tokeniser at hand."""
    return [codec for codec in (bpe_codec(), real_codec()) if codec is not None]
