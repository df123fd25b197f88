"""Weights of exits by hand; their loss in chunks is the stream loss; gradients reach all layers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stretto.engine.testing import random_table, tiny_lm
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM, StreamBatch
from stretto.streams import IGNORE
from stretto.training.config import LayerSkipSettings
from stretto.training.exit_loss import (
    ExitLoss,
    chunked_loss,
    enabled_exits,
    exit_scale,
    exit_weights,
    gather,
)
from stretto.training.stream_loss import stream_loss

ALL = LayerSkipSettings(e_scale=1.0, curriculum="all")


def rotational(e_scale: float, rotation: int) -> LayerSkipSettings:
    return LayerSkipSettings(e_scale=e_scale, rotation=rotation)


def test_scales_by_hand() -> None:
    # l = 0 ... 7 of L = 8, e_scale 1: 0, 1, 3, 6, 10, 15, 21 and 7 + 21.
    assert [exit_scale(e, 8, 1.0) for e in range(1, 9)] == [0, 1, 3, 6, 10, 15, 21, 28]
    tenth = [exit_scale(e, 8, 0.1) for e in range(1, 9)]
    assert tenth == pytest.approx([0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.1, 9.1])
    # L = 30, e_scale 0.1: the last has 29 + 0.1 * 28 * 29 / 2 = 69.6, all others 0.1 * 4060 = 406.
    assert exit_scale(30, 30, 0.1) == pytest.approx(69.6)
    assert sum(exit_scale(e, 30, 0.1) for e in range(1, 30)) == pytest.approx(406)


@pytest.mark.parametrize(
    ("layers", "rotation", "step", "expected"),
    [
        # e_scale 0.1; exits 1 ... 7 of L = 8 have 0, 0.1, 0.3, 0.6, 1, 1.5, 2.1, the last 9.1.
        (8, 1, 0, {2: 0.1 / 14.7, 3: 0.3 / 14.7, 4: 0.6 / 14.7, 5: 1 / 14.7, 6: 1.5 / 14.7,
                   7: 2.1 / 14.7, 8: 9.1 / 14.7}),
        (8, 4, 0, {5: 1 / 10.1, 8: 9.1 / 10.1}),  # l = 0 and 4; e(0) = 0
        (8, 4, 1, {2: 0.1 / 10.7, 6: 1.5 / 10.7, 8: 9.1 / 10.7}),
        (8, 4, 2, {3: 0.3 / 11.5, 7: 2.1 / 11.5, 8: 9.1 / 11.5}),
        (8, 4, 3, {4: 0.6 / 9.7, 8: 9.1 / 9.7}),  # l = 7 is the last
        (8, 4, 4, {5: 1 / 10.1, 8: 9.1 / 10.1}),  # round again
        (8, 8, 0, {8: 1.0}),
        (8, 8, 6, {7: 2.1 / 11.2, 8: 9.1 / 11.2}),
        (8, 8, 7, {8: 1.0}),
        # L = 30: e(l) = 0.1 l (l + 1) / 2; the last has 69.6.
        # L = 30: 0.1 l (l + 1) / 2 for l = 2, 6, ..., 26, and the last's 69.6.
        (30, 4, 2, {3: 0.3 / 165.5, 7: 2.1 / 165.5, 11: 5.5 / 165.5, 15: 10.5 / 165.5,
                    19: 17.1 / 165.5, 23: 25.3 / 165.5, 27: 35.1 / 165.5, 30: 69.6 / 165.5}),
        (30, 8, 5, {6: 1.5 / 103.3, 14: 9.1 / 103.3, 22: 23.1 / 103.3, 30: 69.6 / 103.3}),
    ],
)  # fmt: skip
def test_weights_by_hand(layers: int, rotation: int, step: int, expected: dict[int, float]) -> None:
    assert exit_weights(rotational(0.1, rotation), layers, step, 100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("e_scale", "shares"),
    [  # of the last layer at L = 30, mean over steps, in per cent: reference section 1.3
        (0.1, {1: 14.6, 4: 40.9, 8: 58.4, 15: 73.1, 29: 85.0}),
        (0.2, {1: 11.9, 4: 35.4, 8: 52.7, 15: 68.5, 29: 82.2}),
        (1.0, {1: 9.7, 4: 30.2, 8: 46.9, 15: 63.5, 29: 79.0}),
    ],
)
def test_the_last_layer_s_share(e_scale: float, shares: dict[int, float]) -> None:
    for rotation, share in shares.items():
        settings = rotational(e_scale, rotation)
        mean = sum(exit_weights(settings, 30, t, 100)[30] for t in range(rotation)) / rotation
        assert 100 * mean == pytest.approx(share, abs=0.051)


def test_one_exit_a_step_by_default() -> None:
    settings = LayerSkipSettings(e_scale=0.5)
    seen = [e for t in range(7) for e in enabled_exits(settings, 8, t, 100) if e < 8]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    some = replace(settings, exits=(6, 2))
    assert [enabled_exits(some, 8, t, 100) for t in range(3)] == [[2, 8], [6, 8], [2, 8]]


def test_the_gradual_curriculum_goes_from_the_last_layer_to_the_first() -> None:
    settings = LayerSkipSettings(e_scale=1.0, curriculum="gradual")
    on = [enabled_exits(settings, 4, t, 80) for t in range(80)]  # one more every 10 steps
    assert (on[0], on[9], on[10], on[20], on[29]) == ([4], [4], [3, 4], [2, 3, 4], [2, 3, 4])
    assert all(exits == [1, 2, 3, 4] for exits in on[30:])


def test_without_early_exits_the_last_layer_has_it_all() -> None:
    for curriculum in ("all", "rotational", "gradual"):
        settings = LayerSkipSettings(e_scale=0.0, curriculum=curriculum)
        assert exit_weights(settings, 8, 40, 50) == {8: 1.0}
    assert exit_weights(ALL, 1, 0, 1) == {1: 1.0}


def labelled(lm: MultiStreamLM) -> tuple[StreamBatch, Tensor, Tensor, Tensor]:
    """Two packs, one of two tables; their labelled cells, labels and streams."""
    cells = [random_table(lm, rows, seed=rows).cells() for rows in (12, 9, 25)]
    batch = StreamBatch.from_packs([[cells[0], cells[1]], [cells[2]]])
    assert batch.labels is not None
    labels = batch.labels.flatten()
    select = (labels != IGNORE).nonzero().squeeze(1)
    return batch, select, labels[select], batch.streams.flatten()[select]


def states(lm: MultiStreamLM, batch: StreamBatch, select: Tensor) -> dict[int, Tensor]:
    output = lm(batch, select=select[:0], exits=[1, 2])
    return gather(output.hidden, output.exits, select, 3)


def test_exits_are_those_of_a_model_cut_off() -> None:
    """Exit E is the model with its layers from E on taken out: hidden states are not off by one."""
    lm = tiny_lm()
    batch, select, labels, streams = labelled(lm)
    exits = ExitLoss(lm, ALL, 0.3, steps=10)
    with torch.no_grad():
        hidden = states(lm, batch, select)
        ours = {e: exits.score(hidden[e], labels, streams, normed=e == 3) for e in hidden}
        for e in (3, 2, 1):
            lm.config.num_hidden_layers = e  # the decoder runs layers[:e]
            logits = lm(batch, select=select).logits
            cut = stream_loss(logits, labels, streams, lm.special, len(lm.streams), 0.3)
            torch.testing.assert_close(ours[e].total, cut.total)
            torch.testing.assert_close(ours[e].sums, cut.sums)
            torch.testing.assert_close(ours[e].counts, cut.counts)


def test_chunks_have_the_gradients_of_the_whole() -> None:
    """Of hidden states, unembedding, silence and end; as autograd has them through all logits."""
    lm = tiny_lm()
    hidden = torch.randn(37, 32, requires_grad=True)
    labels = torch.randint(0, lm.vocab_size + 2, (37,))
    share = torch.rand(37)
    total, each = chunked_loss(lm, hidden, labels, share, chunk=8)
    head = lm.base.get_output_embeddings().weight
    found = torch.autograd.grad(2 * total, [hidden, head, lm.special_out])
    losses = torch.nn.functional.cross_entropy(lm.unembed(hidden), labels, reduction="none")
    wanted = torch.autograd.grad(2 * (losses * share).sum(), [hidden, head, lm.special_out])
    torch.testing.assert_close(each, losses.detach())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    head.requires_grad_(False)
    (only,) = torch.autograd.grad(chunked_loss(lm, hidden, labels, share)[0], [hidden])
    torch.testing.assert_close(only, wanted[0] / 2, atol=1e-5, rtol=1e-4)


def test_no_more_than_a_chunk_of_logits_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sizes = tiny_lm(), []
    unembed = lm.unembed
    monkeypatch.setattr(lm, "unembed", lambda x: (sizes.append(len(x)), unembed(x))[1])
    chunked_loss(lm, torch.randn(20, 32), torch.zeros(20, dtype=torch.long), torch.ones(20), 8)
    assert sizes == [8, 8, 4]
    total, each = chunked_loss(lm, torch.randn(0, 32), torch.zeros(0).long(), torch.ones(0))
    assert (total.item(), len(each)) == (0, 0)


@pytest.mark.parametrize("step", [0, 1])
def test_the_weighted_loss_and_its_gradients_by_autograd(step: int) -> None:
    settings = LayerSkipSettings(e_scale=0.7, rotation=2)
    lm = tiny_lm().train()
    batch, select, labels, streams = labelled(lm)
    exits = ExitLoss(lm, settings, 0.3, steps=10)
    loss = exits.weighted(states(lm, batch, select), labels, streams, step)
    loss.total.backward()
    found = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    lm.zero_grad()
    hidden = states(lm, batch, select)
    total = torch.zeros(())
    for e, weight in exits.weights(step).items():
        logits = lm.unembed(hidden[e] if e == 3 else lm.base.model.norm(hidden[e]))
        one = stream_loss(logits, labels, streams, lm.special, len(lm.streams), 0.3)
        total = total + weight * one.total
    total.backward()
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("step", range(3))
def test_gradients_reach_every_layer_at_every_step(step: int) -> None:
    """The last layer too, which a public implementation leaves without."""
    lm = tiny_lm().train()
    batch, select, labels, streams = labelled(lm)
    exits = ExitLoss(lm, LayerSkipSettings(e_scale=1.0), 0.3, steps=10)
    exits.weighted(states(lm, batch, select), labels, streams, step).total.backward()
    for name, parameter in lm.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_parts_of_a_step_add_up() -> None:
    lm = tiny_lm().train()
    batch, select, labels, streams = labelled(lm)
    exits = ExitLoss(lm, ALL, 0.3, steps=10)
    with torch.no_grad():
        hidden = states(lm, batch, select)
        whole = exits.weighted(hidden, labels, streams, 3).total
        silence = (labels == lm.special.silence).sum()
        cells = torch.stack([len(labels) - silence, silence])
        parts = [
            exits.weighted({e: x[p] for e, x in hidden.items()}, labels[p], streams[p], 3, cells)
            for p in (slice(0, 11), slice(11, None))
        ]
    torch.testing.assert_close(parts[0].total + parts[1].total, whole)


def test_a_share_of_the_cells_stands_for_all_of_them() -> None:
    """On average over passes, the loss of some cells is that of all; the same cells by seed."""
    lm = tiny_lm()
    batch, select, labels, streams = labelled(lm)
    with torch.no_grad():
        hidden = states(lm, batch, select)
        whole = ExitLoss(lm, ALL, 0.3, steps=10).weighted(hidden, labels, streams, 0).total
        some = ExitLoss(lm, replace(ALL, exit_tokens=0.25), 0.3, steps=10, seed=1)
        totals = [some.weighted(hidden, labels, streams, 0).total for _ in range(400)]
        assert float(torch.stack(totals).mean()) == pytest.approx(float(whole), rel=0.02)
        assert torch.stack(totals).std() > 0.01
        again = ExitLoss(lm, replace(ALL, exit_tokens=0.25), 0.3, steps=10, seed=1)
        again.load_state_dict({"passes": 7})
        assert torch.equal(again.weighted(hidden, labels, streams, 0).total, totals[7])


@pytest.mark.parametrize("name", ["exits", "report"])
@pytest.mark.parametrize("layer", [0, 3])
def test_an_exit_that_is_none_is_refused(name: str, layer: int) -> None:
    settings = replace(ALL, **{name: (layer,)})
    with pytest.raises(ConfigError, match=rf"layerskip.{name}: {layer} is no exit of .* 1 to 2"):
        ExitLoss(tiny_lm(), settings, 0.3, steps=10)


def test_reported_exits() -> None:
    lm = tiny_lm()
    assert ExitLoss(lm, ALL, 0.3, steps=1).reported == [1, 2]  # 3 layers: 0, 1 and 2 quarters
    assert ExitLoss(lm, replace(ALL, exits=(2,)), 0.3, steps=1).reported == [2]
    assert ExitLoss(lm, replace(ALL, exits=(2,), report=(1,)), 0.3, steps=1).reported == [1]
