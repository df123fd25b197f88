"""What is left out, how often, and that the rest is as if it had been alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stretto.engine.testing import random_table, tiny_lm
from stretto.errors import ConfigError, InputError
from stretto.models import MultiStreamLM, StreamBatch
from stretto.streams import AUDIT
from stretto.training.layer_dropout import (
    LayerDropout,
    decoder_layers,
    drop_probability,
    ramp,
    take,
)


def test_probabilities_by_hand() -> None:
    assert drop_probability(0, 30, 0.2) == 0  # D(0) = 0
    assert drop_probability(29, 30, 0.2) == pytest.approx(0.2)  # D(L - 1) = 1
    assert drop_probability(2, 5, 1.0) == pytest.approx(2**0.5 - 1)
    mean = sum(drop_probability(layer, 30, 1.0) for layer in range(30)) / 30
    assert mean == pytest.approx(0.4447, abs=1e-4)
    assert drop_probability(0, 1, 0.2) == 0


def test_ramps_by_hand() -> None:
    assert [ramp("constant", t, 3) for t in range(3)] == [1, 1, 1]
    assert [ramp("exponential", t, 3) for t in range(3)] == pytest.approx([0, 2**0.5 - 1, 1])
    assert ramp("exponential", 0, 1) == 0


def model(**changes: Any) -> MultiStreamLM:
    """A model with another number of layers or another attention than usual."""
    from transformers import LlamaConfig, LlamaForCausalLM

    attention = changes.pop("attention", "sdpa")
    settings: dict[str, Any] = {
        "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**settings | changes))
    base.set_attn_implementation(attention)
    return MultiStreamLM(base, AUDIT).train()


def packs(lm: MultiStreamLM, number: int) -> StreamBatch:
    """Batch elements of two tables each."""
    cells = [random_table(lm, 8 + k, seed=k).cells() for k in range(2 * number)]
    return StreamBatch.from_packs([cells[2 * b : 2 * b + 2] for b in range(number)])


def alone(batch: StreamBatch, element: int) -> StreamBatch:
    return StreamBatch(**{k: v[element : element + 1] for k, v in vars(batch).items()})


@contextmanager
def choosing(lm: MultiStreamLM, kept: dict[int, Sequence[int]]) -> Iterator[LayerDropout]:
    """Layer dropout whose choice is given."""
    dropout = LayerDropout(lm.base.get_decoder(), 0.5)
    begin = dropout._begin

    def chosen(decoder: nn.Module, args: Any) -> None:
        begin(decoder, args)
        dropout.kept = {
            layer: torch.tensor(kept.get(layer, range(9)[: len(BATCH.rows)]), dtype=torch.long)
            for layer in range(len(dropout.layers))
        }

    dropout._begin = chosen  # type: ignore[method-assign]
    with dropout:
        yield dropout


BATCH = packs(tiny_lm(), 3)
CHOICES: list[dict[int, Sequence[int]]] = [
    {1: [0, 2], 2: [1], 3: [1, 2]},
    {1: [], 3: []},  # left out for all
    {0: [2], 1: [2], 2: [2], 3: [2]},  # kept for one only
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kept", CHOICES)
def test_an_element_goes_through_its_own_layers_only(
    kept: dict[int, Sequence[int]], attention: str
) -> None:
    lm = model(attention=attention)
    with torch.no_grad():
        with choosing(lm, kept):
            found = lm(BATCH).hidden
        layers = lm.base.model.layers
        for b in range(3):
            mine = [m for i, m in enumerate(layers) if b in kept.get(i, range(3))]
            lm.base.model.layers = nn.ModuleList(mine)
            lm.config.num_hidden_layers = len(mine)
            torch.testing.assert_close(found[b], lm(alone(BATCH, b)).hidden[0])
            lm.base.model.layers, lm.config.num_hidden_layers = layers, 4


@pytest.mark.parametrize("kept", CHOICES)
def test_gradients_are_those_of_the_layers_gone_through(kept: dict[int, Sequence[int]]) -> None:
    """A layer left out for all has zero gradients: it takes part, and gets none of the loss."""
    lm = model()
    with choosing(lm, kept):
        lm(BATCH).hidden.square().sum().backward()
    found = {name: p.grad for name, p in lm.base.model.named_parameters()}
    for index in range(4):
        gradients = [g for name, g in found.items() if name.startswith(f"layers.{index}.")]
        assert all(g is not None for g in gradients)
        assert any(g.abs().sum() > 0 for g in gradients) == (len(kept.get(index, [0])) > 0)
    assert found["embed_tokens.weight"].abs().sum() > 0


def test_work_is_saved() -> None:
    lm, seen = model(), []
    for layer in lm.base.model.layers:
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with choosing(lm, {1: [0, 2], 2: [], 3: [1]}):
        lm(BATCH)
    assert seen == [3, 2, 1]


def test_masks_by_layer_type_are_sliced() -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    base = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=5,
            layer_types=["full_attention", "sliding_attention"] * 2,
        )
    )  # fmt: skip
    lm = MultiStreamLM(base, AUDIT).train()
    kept = {0: [0, 1, 2], 1: [0, 2], 2: [1], 3: []}
    with torch.no_grad():
        with choosing(lm, kept):
            found = lm(BATCH).hidden
        for b in range(3):
            with choosing(lm, {i: [0] if b in mine else [] for i, mine in kept.items()}):
                torch.testing.assert_close(found[b], lm(alone(BATCH, b)).hidden[0])


def test_block_masks_are_sliced() -> None:
    from torch.nn.attention.flex_attention import create_block_mask, create_mask

    length = torch.tensor([130, 300, 7, 200])

    def rule(b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k < length[b])

    whole = create_block_mask(rule, 4, None, 384, 384, device="cpu")
    kept = torch.tensor([1, 2])
    taken = take({"mask": whole}, kept, 4)["mask"]
    assert torch.equal(taken.to_dense(), whole.to_dense()[kept])
    dense = create_mask(taken.mask_mod, 2, None, 384, 384, device="cpu")
    assert torch.equal(dense, create_mask(rule, 4, None, 384, 384, device="cpu")[kept])
    shared = create_block_mask(lambda b, h, q, k: k <= q, None, None, 256, 256, device="cpu")
    assert take(shared, kept, 4) is shared


def test_what_has_no_batch_stays_whole() -> None:
    kept, batch = torch.tensor([0, 2]), 3
    mask, shared = torch.rand(3, 1, 5, 5), torch.rand(1, 1, 5, 5)
    cosine, position = torch.rand(3, 5, 8), torch.arange(3)
    args, kwargs = take(((mask, None), {"cos": (cosine, shared), "at": position}), kept, batch)
    assert torch.equal(args[0], mask[kept]) and args[1] is None
    assert torch.equal(kwargs["cos"][0], cosine[kept])
    assert kwargs["cos"][1] is shared and kwargs["at"] is position


def counts(lm: MultiStreamLM, dropout: LayerDropout, passes: int) -> Tensor:
    """How many elements each layer kept in each pass (passes, L)."""
    kept = []
    with dropout, torch.no_grad():
        for _ in range(passes):
            lm(BATCH)
            kept.append([len(dropout.kept[layer]) for layer in range(len(dropout.layers))])
    return torch.tensor(kept)


def test_as_many_are_left_out_as_should_be() -> None:
    lm = model()
    dropout = LayerDropout(lm.base.get_decoder(), 0.6, seed=3)
    share = counts(lm, dropout, 300).float().mean(0) / 3
    for layer in range(4):  # standard deviation 0.5 / 30 at most
        assert float(share[layer]) == pytest.approx(1 - drop_probability(layer, 4, 0.6), abs=0.05)
    assert share[0] == 1
    assert dropout.passes == 300


def test_layers_and_seeds_draw_apart() -> None:
    lm = model()
    dropout = LayerDropout(lm.base.get_decoder(), 1.0, seed=3)
    first = counts(lm, dropout, 40)
    dropout.load_state_dict({"passes": 0})
    assert torch.equal(counts(lm, dropout, 40), first)
    other = LayerDropout(lm.base.get_decoder(), 1.0, seed=4)
    assert not torch.equal(counts(lm, other, 40), first)
    # A stream of its own: layer 1 draws the same whatever the chance of others.
    half = LayerDropout(lm.base.get_decoder(), 1.0, seed=3, kind="exponential", steps=3)
    half.step = 2
    assert torch.equal(counts(lm, half, 40), first)
    # With numbers in common, a deeper layer could only keep what the one before it keeps.
    assert (first[:, 2] > first[:, 1]).any()
    half.step = 0  # S(0) = 0
    assert (counts(lm, half, 5) == 3).all()


def test_a_state_restored_goes_on_where_it_stopped() -> None:
    lm = model()
    dropout = LayerDropout(lm.base.get_decoder(), 0.7)
    whole = counts(lm, dropout, 9)
    broken = LayerDropout(lm.base.get_decoder(), 0.7)
    first = counts(lm, broken, 4)
    resumed = LayerDropout(lm.base.get_decoder(), 0.7)
    resumed.load_state_dict(broken.state_dict())
    assert torch.equal(torch.cat([first, counts(lm, resumed, 5)]), whole)


def test_evaluation_leaves_nothing_out() -> None:
    lm = model().eval()
    with torch.no_grad():
        plain = lm(BATCH).hidden
        with LayerDropout(lm.base.get_decoder(), 1.0) as dropout:
            assert torch.equal(lm(BATCH).hidden, plain)
            assert torch.equal(lm(BATCH).hidden, plain)
            assert dropout.passes == 0
            lm.train()
            assert not torch.equal(lm(BATCH).hidden, plain)


def test_nothing_stays_behind() -> None:
    lm = model()
    before = [dict(layer.__dict__) for layer in lm.base.model.layers]
    dropout = LayerDropout(lm.base.get_decoder(), 0.9)
    with pytest.raises(ZeroDivisionError), dropout:
        with pytest.raises(InputError, match="open already"):
            dropout.__enter__()
        1 / 0  # noqa: B018
    assert [dict(layer.__dict__) for layer in lm.base.model.layers] == before
    assert not lm.base.model._forward_pre_hooks
    own = lm.base.model.layers[2]
    own.forward = type(own).forward.__get__(own)
    mine = own.forward
    with LayerDropout(lm.base.get_decoder(), 0.9):
        assert own.forward is not mine
    assert own.forward is mine


def test_gradient_checkpointing_and_adapters_change_nothing() -> None:
    from peft import LoraConfig, get_peft_model

    grads = []
    for lean in (False, True):
        lm = model()
        torch.manual_seed(1)
        lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        lm.base = get_peft_model(lm.base, lora)
        if lean:
            lm.base.gradient_checkpointing_enable({"use_reentrant": False})
            lm.base.enable_input_require_grads()
        with LayerDropout(lm.base.get_decoder(), 0.8, seed=1) as dropout:
            for _ in range(3):
                lm(BATCH).hidden.square().sum().backward()
            kept = {layer: len(k) for layer, k in dropout.kept.items()}
        grads.append({n: p.grad for n, p in lm.named_parameters() if p.grad is not None})
        assert min(kept.values()) < 3
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_a_model_of_hugging_face_alone() -> None:
    """No stretto model about: a decoder whose layers have another name, and give tuples."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=5,
                           num_attention_heads=4)  # fmt: skip
    base = GPTNeoXForCausalLM(config).train()
    tokens = torch.randint(0, 64, (4, 7))
    attention = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4, [1] * 7])
    with LayerDropout(base.get_decoder(), 1.0, seed=2) as dropout:
        kept = []
        for _ in range(4):
            output = base(tokens, attention_mask=attention, labels=tokens, use_cache=False)
            output.loss.backward()
            kept += [len(k) for k in dropout.kept.values()]
        assert {0, 1, 2, 3, 4} <= set(kept)
        with pytest.raises(InputError, match="use_cache=False"):
            base(tokens, use_cache=True)
    for parameter in base.parameters():
        assert parameter.grad is not None


def test_as_many_elements_as_cells_are_refused() -> None:
    lm = model()
    message = "cannot tell 3 batch elements from as many cells"
    dropout = LayerDropout(lm.base.get_decoder(), 1.0, seed=1)
    with pytest.raises(InputError, match=message), dropout:
        for _ in range(20):
            lm.base(torch.zeros(3, 3, dtype=torch.long), use_cache=False)


def test_what_cannot_be_done_is_refused() -> None:
    decoder = model().base.get_decoder()
    with pytest.raises(ConfigError, match="p_max: between 0 and 1"):
        LayerDropout(decoder, 1.5)
    decoder.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="has 0 lists of 7 layers"):
        decoder_layers(decoder)
