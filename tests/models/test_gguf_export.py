"""What is written as GGUF is what the model holds; needs no llama.cpp but for the last test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from transformers import LlamaConfig, LlamaForCausalLM

from stretto.engine import testing
from stretto.errors import CheckpointError, ConfigError
from stretto.models import MultiStreamLM, gguf_export, gguf_weights
from stretto.models.family import FamilyDecoder
from stretto.models.gguf_export import cached_gguf, export_gguf
from stretto.streams import AUDIT


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}


def test_streams_need_one_matrix_over_the_vocabulary(tmp_path: Path) -> None:
    lm = testing.tiny_lm()
    export_gguf(lm, tmp_path / "a" / "m.gguf", "float32")
    read, decoder = tensors(tmp_path / "a" / "m.gguf"), FamilyDecoder(lm)
    assert np.array_equal(read["token_embd.weight"], decoder.unembed.weight.numpy())
    assert "output.weight" not in read
    for i in range(decoder.num_layers):
        layer = decoder.layer(i)
        gate_up = np.concatenate([read[f"blk.{i}.ffn_{x}.weight"] for x in ("gate", "up")])
        assert np.array_equal(gate_up, layer.gate_up.weight.numpy())
        assert np.array_equal(read[f"blk.{i}.attn_qkv.weight"], layer.qkv.weight.numpy())
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["m.gguf"]


def test_a_plain_file_is_read_back_by_our_own_reader(tmp_path: Path) -> None:
    lm = testing.tiny_lm()
    export_gguf(lm, tmp_path / "m.gguf", "float32", plain=True)
    config: dict[str, Any] = {**lm.config.to_dict(), "tie_word_embeddings": False}
    config["head_dim"] = lm.config.hidden_size // lm.config.num_attention_heads
    read = gguf_weights._weights(GGUFReader(tmp_path / "m.gguf"), config)
    own = {name: weight.numpy() for name, weight in lm.base.state_dict().items()}
    assert read.keys() == own.keys()
    for name, weight in own.items():
        assert np.array_equal(read[name], weight), name


@pytest.mark.parametrize(
    ("precision", "bound"), [("bfloat16", 2**-8), ("q8_0", 1 / 127), ("q4_0", 1 / 7)]
)
def test_values_are_rounded_as_far_as_the_type_rounds(
    precision: str, bound: float, tmp_path: Path
) -> None:
    lm = testing.tiny_lm()
    export_gguf(lm, tmp_path / "m.gguf", precision)
    read, decoder = tensors(tmp_path / "m.gguf"), FamilyDecoder(lm)
    exact = decoder.layer(1).down.weight.numpy()
    error = np.abs(read["blk.1.ffn_down.weight"] - exact)
    assert 0 < error.max() <= bound * np.abs(exact).max()
    kinds = {t.name: t.tensor_type for t in GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["output_norm.weight"] == GGMLQuantizationType.F32
    if precision == "q4_0":
        assert kinds["token_embd.weight"] == GGMLQuantizationType.Q8_0


def test_rows_that_no_block_fits_are_float16(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=80, hidden_size=48, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    lm = MultiStreamLM(LlamaForCausalLM(config), AUDIT)
    export_gguf(lm, tmp_path / "m.gguf", "q4_0")
    kinds = {t.name: t.tensor_type for t in GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.attn_qkv.weight"] == GGMLQuantizationType.F16
    assert kinds["blk.0.ffn_down.weight"] == GGMLQuantizationType.Q4_0


def test_the_name_is_a_hash_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRETTO_CACHE", str(tmp_path))
    lm = testing.tiny_lm()
    first = cached_gguf(lm, "q8_0")
    assert first.is_relative_to(tmp_path) and first.name.endswith("-q8_0.gguf")
    assert cached_gguf(testing.tiny_lm(), "q8_0") == first
    with torch.no_grad():
        lm.stream_embedding += 1  # is passed with every cell, and not in the file
    assert cached_gguf(lm, "q8_0") == first
    for weight in (lm.special_out, lm.base.model.layers[2].mlp.down_proj.weight):
        with torch.no_grad():
            weight.view(-1)[-1] += 1
        assert cached_gguf(lm, "q8_0") != first


def test_what_cannot_be_written_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = testing.tiny_lm()
    with pytest.raises(ConfigError, match="GGUF in q5_k: choose from float32, bfloat16"):
        export_gguf(lm, tmp_path / "m.gguf", "q5_k")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        export_gguf(lm, tmp_path / "file" / "m.gguf", "float32")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_export, "quantize", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        export_gguf(lm, tmp_path / "new" / "m.gguf", "float32")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_llama_cpp_reads_a_plain_file_as_transformers_reads_the_model(
    kind: str, tmp_path: Path
) -> None:
    llama = pytest.importorskip("llama_cpp")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, vocab_size=80, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = MultiStreamLM(AutoModelForCausalLM.from_config(config), AUDIT).eval()
    export_gguf(lm, tmp_path / "m.gguf", "float32", plain=True)
    model = llama.Llama(str(tmp_path / "m.gguf"), n_ctx=64, logits_all=True, verbose=False)
    tokens = [7, 3, 79, 0, 41, 41, 12]
    with torch.inference_mode():
        expected = lm.base(torch.tensor([tokens])).logits[0].numpy()
    model.eval(tokens)
    read = np.array(model.scores)[: len(tokens)]
    assert np.abs(read - expected).max() < 0.02  # its cache is in float16
    model.close()
