"""Sessions made by hand that draft and finish, for tests of early exits."""

from dataclasses import dataclass

import numpy as np
import torch
from cells import Cells, Ints, random_cells

from stretto.engine.backends.drafting import Draft
from stretto.engine.batch import PAD_SAMPLE, RowBatch
from stretto.models import MultiStreamLM
from stretto.models.exits import ExitHead, Exits


@dataclass
class Part:
    """A session's cells in a pass, and which of them are asked."""

    cells: Cells
    asked: Ints


def random_exits(lm: MultiStreamLM, layers: dict[int, int], words: int, seed: int = 0) -> Exits:
    """Heads that say something, silence and end among it.

    Args:
        lm: the model.
        layers: inner size of the adapter by layer.
        words: tokens of the shortlists besides silence and end.
        seed: of everything.
    """
    made, special = torch.Generator().manual_seed(seed), lm.special
    heads = {}
    for layer, inner in layers.items():
        ids = torch.randperm(lm.vocab_size, generator=made)[:words].sort().values
        ids = torch.cat([ids, torch.tensor([special.silence, special.end])])
        width = lm.stream_embedding.shape[1]
        head = ExitHead(layer, ids, width, inner, float(lm.config.rms_norm_eps))
        for parameter in head.parameters():
            mean = float(parameter.dim() == 1)
            parameter.data.normal_(mean, 0.3, generator=made)
        heads[layer] = head.requires_grad_(False)
    return Exits.of(lm, heads, {})


def random_tick(lm: MultiStreamLM, rng: np.random.Generator, row: int, longest: int = 6) -> Part:
    """Input cells of some rows, then a row with a cell of some streams, of which most are asked."""
    depth, width = int(rng.integers(1, longest)), len(lm.streams)
    number = int(rng.integers(0, 4 * depth))
    tokens = rng.integers(0, lm.vocab_size, number)
    streams, rows = rng.integers(0, width, number), row + np.sort(rng.integers(0, depth, number))
    said = np.sort(rng.permutation(width)[: rng.integers(0 if number else 1, width + 1)])
    words = rng.integers(0, lm.vocab_size, len(said))
    words[rng.random(len(said)) < 0.3] = lm.special.silence
    words[rng.random(len(said)) < 0.1] = lm.special.end
    silent = words == lm.special.silence
    order = np.argsort(silent, kind="stable")
    cells = Cells(
        np.concatenate([tokens, words[order]]),
        np.concatenate([streams, said[order]]),
        np.concatenate([rows, np.full(len(said), row + depth - 1)]),
    )
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return Part(cells, number + places[words != lm.special.end])


def with_rows(part: Part, tokens: Ints, silence: int) -> Part:
    """A tick with drafted rows (R, S) behind it, in the engine's order."""
    cells, start = part.cells, int(part.cells.rows.max()) + 1
    streams = np.broadcast_to(cells.streams[part.asked], tokens.shape)
    rows = np.broadcast_to(start + np.arange(len(tokens))[:, None], tokens.shape)
    number = np.arange(len(cells.tokens) + tokens.size)
    joined = Cells(
        np.concatenate([cells.tokens, tokens.reshape(-1)]),
        np.concatenate([cells.streams, streams.reshape(-1)]),
        np.concatenate([cells.rows, rows.reshape(-1)]),
    )
    order = np.argsort(joined.tokens == silence, kind="stable")
    places = np.empty_like(order)
    places[order] = number
    asked = np.concatenate([part.asked, number[len(cells.tokens) :]])
    asked = asked[joined.tokens[asked] != silence + 1]
    return Part(
        Cells(joined.tokens[order], joined.streams[order], joined.rows[order]), places[asked]
    )


def random_rows(lm: MultiStreamLM, rng: np.random.Generator, row: int, number: int) -> Part:
    """History of which nothing is asked."""
    return Part(random_cells(lm, rng, number, row), np.empty(0, np.int64))


def batch_of(lines: list[int], parts: list[Part]) -> RowBatch:
    """A batch of all sessions' cells."""
    shape = (len(parts), max(len(part.cells.tokens) for part in parts))
    tokens, streams, rows = (np.zeros(shape, np.int64) for _ in range(3))
    samples = np.full(shape, PAD_SAMPLE, np.int64)
    for b, part in enumerate(parts):
        span, cells = slice(0, len(part.cells.tokens)), part.cells
        tokens[b, span], streams[b, span], rows[b, span] = cells.tokens, cells.streams, cells.rows
        samples[b, span] = 0
    select = np.concatenate([part.asked + b * shape[1] for b, part in enumerate(parts)])
    none = np.zeros(len(select), np.int64)
    return RowBatch(
        np.array(lines), tokens, streams, rows, samples, select, none, none.astype(float), []
    )


def visible(part: Part, silence: int) -> int:
    """Cells that stay in the cache."""
    return int((part.cells.tokens != silence).sum())


def finish_batch(lines: list[int], parts: list[Part], draft: Draft, silence: int) -> RowBatch:
    """The ticks, each with its drafted rows."""
    return batch_of(
        lines,
        [with_rows(part, rows, silence) for part, rows in zip(parts, draft.tokens, strict=True)],
    )
