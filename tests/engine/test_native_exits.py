"""Early exits of the native back end: a draft changes nothing but the time it takes."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cells import Cells
from drafts import (
    Part,
    batch_of,
    finish_batch,
    random_exits,
    random_rows,
    random_tick,
    visible,
    with_rows,
)  # fmt: skip
from exit_models import EXITS, LMS, PRECISIONS, opened
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.engine import testing
from stretto.engine.backends.drafting import Draft
from stretto.engine.backends.native import NativeBackend, library
from stretto.models import MultiStreamLM, StreamBatch
from stretto.models.exits import Exits, plain_head

pytestmark = pytest.mark.skipif(
    library.why_not() is not None, reason=f"backend native {library.why_not()}"
)
ISAS = [isa for isa, needs in library.ISAS.items() if library.features().issuperset(needs)]


class Pair:
    """Sessions that draft, beside the same sessions on a back end that never does."""

    def __init__(self, lm: MultiStreamLM, fast: NativeBackend, slow: NativeBackend, n: int) -> None:
        self.lm, self.fast, self.slow = lm, fast, slow
        self.lines, self.twins = [fast.open() for _ in range(n)], [slow.open() for _ in range(n)]
        self.silence, self.cells, self.row = lm.special.silence, [0] * n, 0

    def forward(self, parts: list[Part]) -> None:
        for backend, lines in ((self.fast, self.lines), (self.slow, self.twins)):
            backend.forward(batch_of(lines, parts))
        self._grow(parts)

    def check(self, parts: list[Part], layer: int, rows: Any, confidence: float) -> Draft:
        """Draft and finish: what it says, and what it leaves, is what ``forward`` would."""
        draft = self.fast.draft(batch_of(self.lines, parts), layer, rows, confidence)
        whole = finish_batch(self.lines, parts, draft, self.silence)
        said = self.fast.finish(whole, draft).clone()
        whole = finish_batch(self.twins, parts, draft, self.silence)
        assert torch.equal(said, self.slow.forward(whole))
        self._grow([
            with_rows(part, tokens, self.silence)
            for part, tokens in zip(parts, draft.tokens, strict=True)
        ])  # fmt: skip
        return draft

    def _grow(self, parts: list[Part]) -> None:
        for b, part in enumerate(parts):
            self.cells[b] += visible(part, self.silence)
            self.row = max(self.row, int(part.cells.rows.max()) + 1)

    def crop(self, numbers: list[int]) -> None:
        """Take some cells of each away."""
        for b, number in enumerate(numbers):
            self.cells[b] = max(0, self.cells[b] - number)
            self.fast.crop(self.lines[b], self.cells[b])
            self.slow.crop(self.twins[b], self.cells[b])

    def close(self) -> None:
        for backend, lines in ((self.fast, self.lines), (self.slow, self.twins)):
            for line in lines:
                backend.release(line)
            assert backend.cache_bytes == 0


@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from(sorted(LMS)),
    precision=st.sampled_from(PRECISIONS),
    isa=st.sampled_from(ISAS),
    threads=st.sampled_from([1, 2, 3]),
    layer=st.sampled_from([1, 2]),
    sessions=st.integers(1, 3),
    history=st.integers(0, 70),
    rounds=st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from([0.0, 0.0, 0.01, 0.2]), st.integers(0, 12)
        ),
        min_size=1, max_size=3,
    ),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_finish_says_what_forward_says_to_the_bit(
    which: str, precision: str, isa: str, threads: int, layer: int, sessions: int, history: int,
    rounds: list[tuple[int, float, int]], seed: int,
) -> None:  # fmt: skip
    lm, rng = LMS[which], np.random.default_rng(seed)
    pair = Pair(lm, opened(which, precision, threads, isa), opened(which, precision, 4, isa),
                sessions)  # fmt: skip
    if history:
        pair.forward([random_rows(lm, rng, pair.row, history) for _ in range(sessions)])
    for rows, confidence, wrong in rounds:
        fork, kept = pair.fast.fork(pair.lines[0], pair.cells[0]), pair.cells[0]
        twin = pair.slow.fork(pair.twins[0], kept)
        parts = [random_tick(lm, rng, pair.row) for _ in range(sessions)]
        most = rng.integers(0, rows + 1, sessions) if rng.random() < 0.5 else rows
        draft = pair.check(parts, layer, most, confidence)
        pair.crop(rng.integers(0, wrong + 1, sessions).tolist())
        # Blocks that a fork shares are as they were.
        after = [random_rows(lm, rng, pair.row, 3)]
        after[0].asked = np.arange(3)
        assert torch.equal(
            pair.fast.forward(batch_of([fork], after)), pair.slow.forward(batch_of([twin], after))
        )
        pair.fast.release(fork)
        pair.slow.release(twin)
        for b, tokens in enumerate(draft.tokens):
            assert len(tokens) <= np.broadcast_to(most, sessions)[b]
            assert not (tokens[:-1] == lm.special.end).any()
    pair.close()


def answers(
    lm: MultiStreamLM,
    part: Part,
    tell: Callable[[Part], torch.Tensor],
    rows: int,
    confidence: float,
) -> tuple[list[list[int]], list[list[float]]]:
    """The loop of drafting written down once more, a row at a time: tokens and their shares."""
    tokens, shares, chance, asked = [], [], 1.0, part
    while len(tokens) < rows and len(part.asked):
        logits = tell(asked)
        share, token = logits.softmax(-1).max(-1)
        chance *= float(share.prod())
        if chance < confidence:
            break
        tokens.append(token.tolist())
        shares.append(share.tolist())
        if lm.special.end in tokens[-1]:
            break
        streams = asked.cells.streams[asked.asked]
        silent = token.numpy() == lm.special.silence
        order = np.argsort(silent, kind="stable")
        rows_of = np.full(len(order), asked.cells.rows.max() + 1)
        asked = Part(Cells(token.numpy()[order], streams[order], rows_of), np.argsort(order))
    return tokens, shares


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("which", LMS)
def test_a_draft_is_its_exit_read_row_by_row(which: str, precision: str, isa: str) -> None:
    lm, rng, found = LMS[which], np.random.default_rng(0), Counter()
    fast, slow = opened(which, precision, 2, isa), opened(which, precision, 1, isa)
    for layer in (1, 2):
        for confidence in (0.0, 0.02, 0.3):
            parts = [random_tick(lm, rng, 0) for _ in range(6)]
            lines = [fast.open() for _ in parts]
            most = rng.integers(0, 7, len(parts))
            draft = fast.draft(batch_of(lines, parts), layer, most, confidence)
            for b, part in enumerate(parts):
                twin = slow.open()
                tokens, shares = answers(
                    lm, part, lambda asked, twin=twin, layer=layer:
                        slow.early(batch_of([twin], [asked]), layer), most[b], confidence,
                )  # fmt: skip
                assert draft.tokens[b].tolist() == tokens
                assert draft.shares[b].shape == (len(tokens), len(part.asked))
                if tokens:
                    assert np.allclose(draft.shares[b], shares, rtol=1e-5)
                slow.release(twin)
                found["short"] += len(tokens) < most[b]
                found["silent"] += sum(row.count(lm.special.silence) for row in tokens)
                found["all silent"] += sum(set(row) == {lm.special.silence} for row in tokens)
                found["end"] += any(lm.special.end in row for row in tokens)
                found["rows"] += len(tokens)
            for line in lines:
                fast.release(line)
    assert all(found[name] for name in ("short", "silent", "rows", "end")), found


@pytest.mark.parametrize("member", LMS)
def test_a_draft_is_what_transformers_would_draft(member: str) -> None:
    lm, backend, rng, drafted = LMS[member], opened(member, "float32"), np.random.default_rng(1), 0
    unembedding = torch.cat([lm.base.get_output_embeddings().weight, lm.special_out]).detach()
    for layer, head in EXITS[member].heads.items():
        for _ in range(5):
            history, past = random_rows(lm, rng, 0, 30), []
            part = random_tick(lm, rng, 4)
            line = backend.open()
            backend.forward(batch_of([line], [history]))
            draft = backend.draft(batch_of([line], [part]), layer, 5)

            @torch.no_grad()
            def tell(
                asked: Part, past: list[Part] = past, history: Part = history,
                layer: int = layer, head: Any = head,
            ) -> torch.Tensor:  # fmt: skip
                past.append(asked)
                tokens, streams, rows = (
                    torch.from_numpy(
                        np.concatenate([getattr(p.cells, name) for p in [history, *past]])
                    )[None]
                    for name in ("tokens", "streams", "rows")
                )
                batch = StreamBatch(tokens, streams, rows, torch.zeros_like(tokens))
                hidden = lm(batch, exits=[layer]).exits[layer][0, -len(asked.cells.tokens) :]
                logits = torch.full((len(hidden), len(unembedding)), -torch.inf)
                logits[:, head.ids] = head.logits(hidden, unembedding)
                return logits[torch.from_numpy(asked.asked)]

            tokens, shares = answers(lm, part, tell, 5, 0.0)
            assert draft.tokens[0].tolist() == tokens
            assert np.allclose(
                draft.shares[0], np.array(shares).reshape(draft.shares[0].shape), atol=1e-3
            )
            drafted += len(tokens)
            backend.release(line)
    assert drafted > 10


def test_an_early_exit_is_a_model_of_its_layers() -> None:
    lm = LMS["tiny"]
    short = testing.tiny_lm()
    short.base.model.layers = short.base.model.layers[:2]
    short.config.num_hidden_layers = 2
    with torch.no_grad():
        lm.base.model.norm.weight.copy_(short.base.model.norm.weight)
    words = torch.tensor([3, 7, 100, lm.special.silence, lm.special.end])
    for ids in (None, words):
        backend = NativeBackend(lm, "float32")
        backend.set_exits(Exits.of(lm, {2: plain_head(lm, 2, ids)}, {}), lm)
        full = NativeBackend(short, "float32")
        one, other = backend.open(), full.open()
        rng = np.random.default_rng(2)
        for row in range(0, 12, 4):
            part = random_rows(lm, rng, row, 9)
            part.asked = np.arange(9)
            told = backend.early(batch_of([one], [part]), 2)
            expected = full.forward(batch_of([other], [part]))
            if ids is None:
                assert torch.equal(told, expected)
            else:
                assert torch.equal(told[:, ids], expected[:, ids])
                left = torch.ones(told.shape[1], dtype=torch.bool)
                left[ids] = False
                assert bool((told[:, left] == -torch.inf).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_embeddings_are_read_as_they_are_stored(dtype: torch.dtype) -> None:
    lm, rng = testing.tiny_lm().to(dtype), np.random.default_rng(6)
    fast, slow = NativeBackend(lm, "float32"), NativeBackend(lm, "float32")
    fast.set_exits(random_exits(lm, {1: 0}, words=200), lm)
    pair = Pair(lm, fast, slow, 3)
    rows = 0
    for _ in range(4):
        draft = pair.check([random_tick(lm, rng, pair.row) for _ in range(3)], 1, 4, 0.0)
        rows += sum(map(len, draft.tokens))
    assert rows > 12
    pair.close()


def test_a_long_first_tick_is_drafted_from() -> None:
    lm, rng = LMS["tiny"], np.random.default_rng(3)
    for precision in PRECISIONS:
        pair = Pair(lm, opened("tiny", precision, 2), opened("tiny", precision), 2)
        parts = [random_tick(lm, rng, 0, longest=200), random_tick(lm, rng, 0)]
        parts[0].cells = random_rows(lm, rng, 0, 300).cells
        parts[0].asked = np.array([298, 299])
        draft = pair.check(parts, 2, 4, 0.0)
        assert draft.layer == 2
        pair.close()
