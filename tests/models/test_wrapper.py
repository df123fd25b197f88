"""The multi-stream model against its base, and what its streams see of each other."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from stretto.engine import Engine, Limits
from stretto.engine.testing import random_table, tiny_codec, tiny_lm
from stretto.errors import CheckpointError
from stretto.models import MultiStreamLM, StreamBatch, load_codec
from stretto.models.store import cache_dir
from stretto.streams import AUDIT, SINGLE, StreamSet, StreamTable


def logits_of(lm: MultiStreamLM, table: StreamTable) -> Tensor:
    with torch.inference_mode():
        return lm(StreamBatch.from_cells([table.cells()])).logits


def plain(seed: int = 0) -> MultiStreamLM:
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64,
                         num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         initializer_range=0.2, eos_token_id=None, pad_token_id=0)  # fmt: skip
    return MultiStreamLM(LlamaForCausalLM(config), SINGLE).eval()


def test_one_stream_with_a_zero_vector_is_the_base_bit_for_bit() -> None:
    lm = plain()
    ids = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(1))
    table = StreamTable(SINGLE, lm.special, {"text": ids[0].tolist()})
    with torch.inference_mode():
        assert torch.equal(logits_of(lm, table)[:, :256], lm.base(ids).logits[0])


def same_as_generate(
    engine: Engine, prompts: list[list[int]], num_tokens: int, stop: int | None
) -> None:
    sessions = [
        engine.open("single", prompts={"text": ids}, limits=Limits(max_rows=num_tokens))
        for ids in prompts
    ]
    engine.run(sessions)
    for ids, session in zip(prompts, sessions, strict=True):
        out = engine.model.base.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=num_tokens, do_sample=False, eos_token_id=stop, pad_token_id=0,
        )[0, len(ids) :].tolist()  # fmt: skip
        if stop is not None and out[-1] == stop:
            out = [*out[:-1], engine.codec.special.end]
        assert session.table.rows[:, 0].tolist() == out


def test_greedy_decoding_equals_generate_on_20_prompts() -> None:
    engine = Engine(plain(), tiny_codec(), stop_ids=[11])
    rng = np.random.default_rng(0)
    prompts = [rng.integers(12, 256, rng.integers(1, 30)).tolist() for _ in range(20)]
    same_as_generate(engine, prompts, 12, stop=11)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_greedy_decoding_equals_generate_on_the_real_base() -> None:
    folder = cache_dir() / "models" / "smollm2-135m"
    if not (folder / "model.safetensors").exists():
        pytest.skip("smollm2-135m has not been pulled")
    engine = Engine.load("smollm2-135m", dtype="float32", device="cpu", max_sessions=1)
    codec = load_codec("smollm2-135m")
    subjects = ("France", "a prime number", "gravity", "the moon", "bread")
    openings = ("The story of {} begins", "A definition of {}:", "Q: What is {}?\nA:", "{} is")
    prompts = [codec.encode(o.format(s)) for s in subjects for o in openings]
    assert len(prompts) == 20
    same_as_generate(engine, prompts, 12, stop=engine.model.config.eos_token_id)


def test_peers_in_a_row_are_independent_under_strict_only() -> None:
    for rule, independent in (("strict", True), ("inclusive", False)):
        lm = tiny_lm(mask_rule=rule)
        rows = np.array([[1, 2, 3], [4, 5, 6]])
        table = StreamTable(AUDIT, lm.special, rows=rows)
        other = StreamTable(AUDIT, lm.special, rows=rows + np.array([[0, 0, 0], [0, 9, 0]]))
        change = (logits_of(lm, table) - logits_of(lm, other))[[3, 5]].abs().max()
        assert (float(change) == 0.0) == independent


def test_order_of_streams_in_a_row_does_not_matter() -> None:
    lm = tiny_lm()
    table = random_table(lm, 12, seed=4)
    cells = StreamBatch.from_cells([table.cells()])
    order = np.lexsort((np.random.default_rng(0).random(cells.rows.shape[1]), cells.rows[0]))
    shuffled = StreamBatch(*(x[:, order] for x in (cells.tokens, cells.streams, cells.rows,
                                                   cells.samples)))  # fmt: skip
    with torch.inference_mode():
        difference = lm(shuffled).logits - lm(cells).logits[order]
    assert list(order) != sorted(order) and difference.abs().max() < 1e-5


def test_silence_is_seen_by_nobody() -> None:
    lm = tiny_lm().double()  # in float32, kernels for 8 and 9 cells round differently
    rows = np.array([[1, 2, 3], [4, lm.special.silence, 6], [7, 8, 9]])
    with_silence = logits_of(lm, StreamTable(AUDIT, lm.special, rows=rows))
    rows[1, 1] = -1
    without = logits_of(lm, StreamTable(AUDIT, lm.special, rows=rows))
    keep = [0, 1, 2, 3, 5, 6, 7, 8]
    assert (with_silence[keep] - without).abs().max() < 1e-12


def test_packed_tables_do_not_see_each_other() -> None:
    lm = tiny_lm()
    tables = [random_table(lm, n, seed=n) for n in (5, 9)]
    cells = [table.cells() for table in tables]
    with torch.inference_mode():
        packed = lm(StreamBatch.from_packs([cells])).logits
    apart = torch.cat([logits_of(lm, table) for table in tables])
    assert (packed - apart).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_gradients_reach_every_trainable_tensor(mode: str) -> None:
    lm = tiny_lm().train()
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        lm.base = get_peft_model(lm.base, LoraConfig(r=2, init_lora_weights=False,
                                                     target_modules="all-linear"))  # fmt: skip
    table = random_table(lm, 30, seed=0)
    lm(StreamBatch.from_cells([table.cells()])).logits.logsumexp(-1).sum().backward()
    trainable = {n: p for n, p in lm.named_parameters() if p.requires_grad}
    assert {"stream_embedding", "special_in", "special_out"} <= set(trainable)
    assert any("lora_B" in name for name in trainable) == (mode == "lora")
    for name, parameter in trainable.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    rows = lm.stream_embedding.grad, lm.special_in.grad, lm.special_out.grad
    assert all(bool((grad.abs().amax(1) > 0).all()) for grad in rows if grad is not None)


def test_exits_give_inner_layers() -> None:
    lm = tiny_lm()
    batch = StreamBatch.from_cells([random_table(lm, 4, seed=1).cells()])
    with torch.inference_mode():
        out = lm(batch, exits=(1, 2, 3))
    assert sorted(out.exits) == [1, 2, 3] and out.exits[1].shape == out.hidden.shape
    assert not torch.equal(out.exits[1], out.exits[2])


def test_what_has_no_language_head_is_refused() -> None:
    with pytest.raises(CheckpointError, match="language head"):
        MultiStreamLM(plain().base.get_decoder(), StreamSet(list(SINGLE)))
