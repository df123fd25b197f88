"""Drafts and exit heads of the native back end that cannot be, and memory that is not there."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from drafts import batch_of, finish_batch, random_exits, random_rows, random_tick
from exit_models import EXITS, LMS, opened

from stretto.engine import testing
from stretto.engine.backends.native import NativeBackend, library
from stretto.errors import ConfigError

pytestmark = pytest.mark.skipif(
    library.why_not() is not None, reason=f"backend native {library.why_not()}"
)


def test_numbers_that_are_none_draft_nothing() -> None:
    lm = testing.tiny_lm()
    exits = random_exits(lm, {1: 5}, words=9)
    exits.heads[1].norm.fill_(torch.nan)
    backend = NativeBackend(lm, "float32")
    backend.set_exits(exits, lm)
    part = random_tick(lm, np.random.default_rng(0), 0)
    part.asked = np.arange(len(part.cells.tokens))
    draft = backend.draft(batch_of([backend.open()], [part]), 1, 4)
    assert draft.tokens[0].shape == (0, len(part.asked))


def test_a_draft_without_memory_leaves_the_lines_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm, backend = LMS["tiny"], opened("tiny", "float32")
    rng = np.random.default_rng(4)
    lines = [backend.open(), backend.open()]
    parts = [random_rows(lm, rng, 0, 20) for _ in lines]
    backend.forward(batch_of(lines, parts))
    before = backend.cache_bytes
    monkeypatch.setattr(backend._blocks, "_spare", [])

    def none() -> Any:
        raise MemoryError

    monkeypatch.setattr(backend._blocks, "_new", none)
    ticks = [random_tick(lm, rng, 4, 2), random_tick(lm, rng, 4, 2)]
    for tick in ticks:
        tick.asked = np.arange(len(tick.cells.tokens))
    with pytest.raises(MemoryError):
        backend.draft(batch_of(lines, ticks), 1, 40)
    assert backend.cache_bytes == before
    for line in lines:
        backend.release(line)


def test_what_does_not_fit_a_draft_is_refused() -> None:
    lm, backend, rng = LMS["tiny"], opened("tiny", "float32"), np.random.default_rng(5)
    line = backend.open()
    part = random_tick(lm, rng, 0)
    while len(part.asked) < 2:
        part = random_tick(lm, rng, 0)
    draft = backend.draft(batch_of([line], [part]), 1, 3)
    assert len(draft.tokens[0])
    whole = finish_batch([line], [part], draft, lm.special.silence)
    for name in ("tokens", "streams"):
        getattr(whole, name)[0, -1] ^= 1
        with pytest.raises(ValueError, match=f"finish: its cells have other {name} than the draft"):
            backend.finish(whole, draft)
        getattr(whole, name)[0, -1] ^= 1
    with pytest.raises(ValueError, match="finish: its cells have other tokens"):
        backend.finish(batch_of([line], [part]), draft)
    held = backend._blocks.length(line)
    backend.crop(line, 0)
    with pytest.raises(ValueError, match="finish: lines have changed since the draft"):
        backend.finish(whole, draft)
    assert held
    with pytest.raises(ValueError, match="the draft is of 1 sessions, not 2"):
        backend.finish(batch_of([line, line], [part, part]), draft)
    backend.release(line)


def refuse(words: str, act: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_fit_are_refused_in_one_line() -> None:
    lm = LMS["tiny"]
    backend = NativeBackend(lm)
    batch = batch_of([backend.open()], [random_tick(lm, np.random.default_rng(0), 0)])
    refuse("has no exit heads; give it some", lambda: backend.draft(batch, 1, 1))
    backend.set_exits(EXITS["tiny"], lm)
    refuse("no exit head for layer 5; there are heads for 1, 2", lambda: backend.early(batch, 5))

    def setting(layer: int, **changes: Any) -> Callable[[], None]:
        exits = random_exits(lm, {layer: 0}, words=9)
        for name, value in changes.items():
            setattr(exits.heads[layer], name, value)
        return lambda: backend.set_exits(exits, lm)

    refuse("exit head for layer 3: the model has 3, an exit is before the end", setting(3))
    wide = torch.nn.Parameter(torch.ones(9))
    refuse("exit head for layer 1: made for hidden states of 9, not 32", setting(1, norm=wide))
    refuse("its norms have eps 1.0, the model's 1e-06", setting(1, eps=1.0))
    refuse("its shortlist is empty or has tokens", setting(1, ids=torch.tensor([258])))
