"""Two ways to the same logits, and two ways to the same text."""

import random

import numpy as np
import torch

from stretto.engine import Engine, Limits
from stretto.models import MultiStreamLM, StreamBatch, load_codec
from stretto.streams import AUDIT, Cells, StreamTable
from stretto.streams.alignment import audit
from stretto.streams.arrival import random_arrival
from stretto.streams.examples import load_examples


def largest_difference(base: str, rule: str, *, tables: int, seed: int) -> float:
    """Largest difference between logits of cached ticks and of one teacher-forced pass, fp32.

    Args:
        base: base model; its stream vectors are set at random, so that they matter.
        rule: mask rule.
        tables: audit tables with random arrival, as in training.
        seed: of arrival and vectors.
    """
    lm = MultiStreamLM.from_pretrained(base, streams=AUDIT, mask_rule=rule, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    scale = 0.5 * lm.base.get_input_embeddings().weight.std().item()
    lm.stream_embedding.data.normal_(0, scale, generator=generator)
    codec, rng = load_codec(base), random.Random(seed)
    worst = 0.0
    for example in load_examples("leg_counting", limit=tables, split="dev"):
        table = audit(example, codec, lag=1, arrival=random_arrival(rng), rng=rng)
        cells = table.cells()
        with torch.inference_mode():
            whole = lm(StreamBatch.from_cells([cells])).logits
            cached = _cached_logits(lm, table, cells)
        worst = max(worst, (whole - cached).abs().max().item())
    return worst


def _cached_logits(lm: MultiStreamLM, table: StreamTable, cells: Cells) -> torch.Tensor:
    """Logits (T, V + 2), row by row with a cache; the prompts are one prefill."""
    cache, line = lm.new_cache(1), torch.zeros(1, dtype=torch.int64)
    logits: list[torch.Tensor] = []
    order: list[int] = []
    ticks = np.maximum(cells.rows, table.num_prompt_rows - 1)
    for tick in np.unique(ticks):
        where = np.flatnonzero(ticks == tick)
        silent = cells.tokens[where] == table.special.silence
        where = where[np.argsort(silent, kind="stable")]  # what is kept comes first
        part = Cells(*(getattr(cells, name)[where] for name in ("tokens", "streams", "rows")),
                     labels=cells.labels[where])  # fmt: skip
        logits.append(lm(StreamBatch.from_cells([part]), cache=cache, lines=line).logits)
        order += where.tolist()
    return torch.cat(logits)[np.argsort(order)]


def greedy_matches(base: str, *, prompts: int, tokens: int) -> int:
    """On how many prompts the engine writes the very tokens of transformers' ``generate``, fp32."""
    engine = Engine.load(base, dtype="float32", max_sessions=prompts)
    texts = [f"Tell me about {text}" for text in _TOPICS[:prompts]]
    ids = [engine.codec.encode(text) for text in texts]
    sessions = []
    for prompt in ids:
        session = engine.open(
            streams="single",
            prompts={"text": prompt},
            limits=Limits(max_message_tokens=tokens),
        )
        session.close()
        sessions.append(session)
    engine.run(sessions)
    eos = engine.model.base.generation_config.eos_token_id
    stops, same = eos if isinstance(eos, list) else [eos], 0
    for prompt, session in zip(ids, sessions, strict=True):
        with torch.inference_mode():
            whole = engine.model.base.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=tokens, pad_token_id=0
            )
        written = whole[0, len(prompt) :].tolist()
        if written[-1] in stops:  # the engine says `end` instead
            written.pop()
        same += session.table.column("text") == written
    return same


_TOPICS = (
    "bread", "the moon", "fugues", "honey bees", "chess", "glaciers", "paper", "the number seven",
    "tea", "lighthouses", "volcanoes", "bicycles", "owls", "maps", "salt", "rivers", "clocks",
    "kites", "rust", "the colour blue",
)  # fmt: skip
