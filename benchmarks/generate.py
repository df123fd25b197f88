"""Decoding one stream: the engine against what most people run, ``generate`` of transformers."""

import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from stretto.engine import Engine, Limits, SamplingParams
from stretto.engine.backends import Backend
from stretto.models import MultiStreamLM, load_codec

PROMPT, TOKENS = 512, 16


class _Stamps:
    """A streamer of transformers that notes when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        """Called with the prompt, then with each token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to do."""


def token_times(
    base: str, lm: MultiStreamLM, backend: Backend, *, bursts: int, seed: int
) -> tuple[list[float], list[float]]:
    """Seconds a token of transformers' ``generate`` in bfloat16 and of the engine, greedy.

    Bursts of ``TOKENS`` alternate, each behind a prompt of ``PROMPT`` tokens of its own. What
    comes before the second token is prefill, and not counted on either side.

    Args:
        base: the base model.
        lm: the same, as loaded for the back end.
        backend: what the engine runs on.
        bursts: of each side; one more comes first and is not counted.
        seed: of the prompts.
    """
    slow = MultiStreamLM.from_pretrained(base, device="cpu", dtype="bfloat16").base
    eos = slow.generation_config.eos_token_id
    stops = tuple(eos) if isinstance(eos, list) else (eos,)
    engine = Engine(lm, load_codec(base), backend=backend, stop_ids=stops)
    rng = np.random.default_rng(seed)
    theirs: list[float] = []
    ours: list[float] = []
    for burst in range(bursts + 1):
        prompt = rng.integers(0, lm.vocab_size, PROMPT).tolist()
        sides = (_generate(slow, prompt), theirs), (_engine(engine, prompt, stops), ours)
        for took, side in sides:
            if burst:
                side += took
    return theirs, ours


def _generate(model: torch.nn.Module, prompt: Sequence[int]) -> list[float]:
    stamps = _Stamps()
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            max_new_tokens=TOKENS + 1, min_new_tokens=TOKENS + 1, streamer=stamps,
        )  # fmt: skip
    # The prompt and the first token are stamps 0 and 1.
    return np.diff(stamps.times[1:]).tolist()


def _engine(engine: Engine, prompt: Sequence[int], stops: tuple[int, ...]) -> list[float]:
    session = engine.open(
        streams="single",
        prompts={"text": prompt},
        sampling=SamplingParams(banned=stops),
        limits=Limits(max_rows=TOKENS + 2),
    )
    session.close()
    while len(session.rows) < 1:
        engine.step()
    took = []
    for _ in range(TOKENS):
        start = time.perf_counter()
        engine.step()
        took.append(time.perf_counter() - start)
    session.cancel()
    engine.step()  # its line is taken back
    return took


def per_second(seconds: Sequence[float]) -> float:
    """Tokens a second at the median."""
    return 1 / statistics.median(seconds)
