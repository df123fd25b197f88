"""The loss by hand, apart by stream and kind; packing leaks nothing."""

import math

import pytest
import torch

from stretto.engine.testing import random_table, tiny_lm
from stretto.models import StreamBatch
from stretto.streams import AUDIT, IGNORE, SpecialIds
from stretto.training.stream_loss import count_cells, loss_report, stream_loss

SPECIAL = SpecialIds(silence=2, end=3)


def test_loss_by_hand() -> None:
    rows = [[0.7, 0.1, 0.1, 0.1], [0.2, 0.2, 0.5, 0.1], [0.1, 0.1, 0.2, 0.6]]
    logits = torch.log(torch.tensor(rows))
    labels, streams = torch.tensor([0, 2, 3]), torch.tensor([1, 1, 2])
    loss = stream_loss(logits, labels, streams, SPECIAL, 3, silence_weight=0.2)
    content = -(math.log(0.7) + math.log(0.6)) / 2
    silence = -math.log(0.5)
    assert float(loss.total) == pytest.approx(content + 0.2 * silence, rel=1e-6)
    report = loss_report(loss.sums, loss.counts, AUDIT)
    assert report == pytest.approx(
        {
            "content": content,
            "content.answer": -math.log(0.7),
            "content.audit": -math.log(0.6),
            "silence": silence,
            "silence.answer": silence,
        }
    )


def test_parts_of_a_step_add_up_to_its_loss() -> None:
    torch.manual_seed(0)
    logits, streams = torch.randn(7, 4), torch.ones(7, dtype=torch.long)
    labels = torch.tensor([0, 1, 2, 2, 3, 2, 1])  # the parts differ in size and share of silence
    whole = stream_loss(logits, labels, streams, SPECIAL, 3, 0.2)
    cells = count_cells(torch.cat([labels, torch.tensor([IGNORE])]), SPECIAL)
    assert cells.tolist() == [4, 3]
    parts = [
        stream_loss(logits[part], labels[part], streams[part], SPECIAL, 3, 0.2, cells)
        for part in (slice(0, 2), slice(2, 7))
    ]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)


def test_without_silence_or_without_content_the_loss_is_finite() -> None:
    logits = torch.zeros(2, 4)
    for labels in (torch.tensor([0, 1]), torch.tensor([2, 2])):
        loss = stream_loss(logits, labels, torch.tensor([1, 1]), SPECIAL, 3, 0.2)
        assert torch.isfinite(loss.total)


def test_a_pack_is_its_samples() -> None:
    lm = tiny_lm()
    cells = [random_table(lm, rows, seed=rows).cells() for rows in (5, 9, 14)]
    with torch.no_grad():
        packed = lm(StreamBatch.from_packs([cells], length=sum(map(len, cells)) + 7)).logits
        alone = torch.cat([lm(StreamBatch.from_cells([c])).logits for c in cells])
    assert torch.allclose(packed[: len(alone)], alone, atol=1e-5)


def test_gradients_reach_all_that_is_trained() -> None:
    lm = tiny_lm().train()
    table = random_table(lm, 30, seed=3)
    batch = StreamBatch.from_cells([table.cells()])
    labels = batch.labels.flatten()
    select = (labels != IGNORE).nonzero().squeeze(1)
    streams = batch.streams.flatten()[select]
    loss = stream_loss(
        lm(batch, select=select).logits, labels[select], streams, lm.special, len(lm.streams), 0.2
    )
    loss.total.backward()
    for name, parameter in lm.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for vector in lm.stream_embedding.grad[batch.streams.unique()]:
        assert vector.abs().sum() > 0
    for vectors in (lm.special_in, lm.special_out):
        assert (vectors.grad.abs().sum(1) > 0).all()
