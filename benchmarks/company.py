"""Whether a session's table depends on what else is in the batch."""

import random
from collections.abc import Sequence

from stretto.engine import Engine, Limits, SamplingParams
from stretto.engine.backends import Backend
from stretto.engine.reference import Script
from stretto.engine.testing import play
from stretto.models import MultiStreamLM
from stretto.streams import READ, StreamCodec
from stretto.streams.examples import load_examples

GREEDY = SamplingParams()
WARM = SamplingParams(temperature=0.9, top_p=0.95)
ROWS = 40


def scripts(codec: StreamCodec, number: int, sampling: SamplingParams, seed: int) -> list[Script]:
    """Questions whose text arrives in clumps and pauses, as it may from people."""
    rng, made = random.Random(seed), []
    for n, example in enumerate(load_examples("leg_counting", limit=number, split="dev")):
        now, arrivals = rng.uniform(0, 0.3), []
        for token in codec.encode("".join(example.chunks))[:60]:
            arrivals.append((now, "user", token))
            now += rng.choice((0.0, 0.01, 0.03, 0.2))
        arrivals.append((now, "user", codec.special.end))
        prompts = {"answer": codec.encode(f"lag {rng.randint(0, 2)}:")}
        limits = Limits(max_rows=rng.randint(ROWS // 2, ROWS))
        made.append(
            Script(READ, prompts, arrivals, sampling={"answer": sampling}, limits=limits, seed=n)
        )
    return made


def equal_tables(
    lm: MultiStreamLM, codec: StreamCodec, backend: Backend, played: Sequence[Script]
) -> int:
    """How many of these sessions write the same table alone and among the others.

    The company changes all the time: a session joins when another is over.
    """
    alone = [play(Engine(lm, codec, backend=backend), [script])[0] for script in played]
    crowded = Engine(lm, codec, backend=backend, max_sessions=max(2, len(played) // 2))
    return sum(one == other for one, other in zip(alone, play(crowded, played), strict=True))
