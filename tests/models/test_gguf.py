import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer, pre_tokenizers

from stretto.errors import CheckpointError
from stretto.models import gguf_weights
from stretto.models.gguf_weights import convert

WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>\n{% endfor %}"


def vocabulary() -> tuple[list[str], list[str]]:
    merges = ["h e", "l l", "he ll", "hell o", "Ġ 1", "1 2", "Â ½", "Ġ Â"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return SPECIAL + alphabet + [merge.replace(" ", "") for merge in merges], merges


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp stores queries and keys, element by element."""
    size = weight.shape[0] // heads
    order = [
        head * size + half * size // 2 + pair
        for head in range(heads)
        for pair in range(size // 2)
        for half in (0, 1)
    ]
    return weight[order]


def tiny_weights(seed: int = 0, *, head: bool = False) -> dict[str, np.ndarray]:
    """Random Llama weights by their Hugging Face names."""
    rng = np.random.default_rng(seed)
    size, kv = len(vocabulary()[0]), WIDTH // HEADS * KV_HEADS
    shapes = {"model.embed_tokens": (size, WIDTH), "model.norm": (WIDTH,)}
    if head:
        shapes["lm_head"] = (size, WIDTH)
    for i in range(LAYERS):
        layer = {
            "input_layernorm": (WIDTH,),
            "self_attn.q_proj": (WIDTH, WIDTH),
            "self_attn.k_proj": (kv, WIDTH),
            "self_attn.v_proj": (kv, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "post_attention_layernorm": (WIDTH,),
            "mlp.gate_proj": (INNER, WIDTH),
            "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
        }
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {
        f"{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def gguf_name(name: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, part = name.split(".", 3)
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    return f"blk.{layer}.{parts[part.removesuffix('.weight')]}.weight"


def write_gguf(
    path: Path,
    weights: dict[str, np.ndarray],
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    quantised: GGMLQuantizationType | None = None,
    rope_scaling: str | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> None:
    tokens, merges = vocabulary()
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    if rope_scaling:
        writer.add_string("llama.rope.scaling.type", rope_scaling)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    kinds = [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, weight in weights.items():
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
        stored = permuted(weight, heads) if heads else weight
        if quantised is not None and weight.ndim == 2:
            writer.add_tensor(gguf_name(name), quantize(stored, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(gguf_name(name), stored)
    for name, weight in (extra or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(tmp_path: Path, weights: dict[str, np.ndarray], **options) -> Path:
    write_gguf(tmp_path / "tiny.gguf", weights, **options)
    folder = tmp_path / "out"
    folder.mkdir()
    convert(tmp_path / "tiny.gguf", folder)
    return folder


@pytest.mark.parametrize("head", [False, True])
def test_weights_come_back_bit_for_bit(tmp_path, head):
    weights = tiny_weights(head=head)
    folder = converted(tmp_path, weights)
    read = load_file(folder / "model.safetensors")
    assert read.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(read[name], weight, err_msg=name)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is not head


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0])
def test_quantised_weights_are_dequantised_exactly(tmp_path, kind):
    weights = tiny_weights()
    read = load_file(converted(tmp_path, weights, quantised=kind) / "model.safetensors")
    for name, weight in weights.items():
        # a row is quantised by itself, so the order of rows does not matter here
        expected = dequantize(quantize(weight, kind), kind) if weight.ndim == 2 else weight
        np.testing.assert_array_equal(read[name], expected, err_msg=name)
        assert read[name].dtype == np.float32


@given(heads=st.integers(1, 5), pairs=st.integers(1, 6), width=st.integers(1, 4))
def test_unpermute_is_the_inverse(heads, pairs, width):
    weight = np.arange(heads * pairs * 2 * width).reshape(-1, width)
    np.testing.assert_array_equal(gguf_weights._unpermute(permuted(weight, heads), heads), weight)


def test_config_is_what_the_file_says(tmp_path):
    folder = converted(tmp_path, tiny_weights())
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "llama",
        "vocab_size": len(vocabulary()[0]),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": WIDTH // HEADS,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert config.items() >= expected.items()
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5000.0}
    assert config["rms_norm_eps"] == pytest.approx(1e-6, rel=1e-6)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2


def test_tokenizer(tmp_path):
    folder = converted(tmp_path, tiny_weights())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>hello").tokens == ["<|im_start|>", "hello"]
    # digits of any script stand alone, although there are merges that would join them
    assert tokenizer.encode(" 12").tokens == ["Ġ", "1", "2"]
    assert tokenizer.encode(" ½").tokens == ["Ġ", "Â½"]
    for text in ("hello 12\n\tdef f():  x", "äöü ½ 日本 🙂", "שלום"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    names = json.loads((folder / "tokenizer_config.json").read_text())
    assert names.items() >= {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}.items()
    assert names["unk_token"] == SPECIAL[0]
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2'"),
        ({"pre": "llama-bpe"}, "llama-bpe"),
        ({"rope_scaling": "yarn"}, "rotary scaling 'yarn'"),
        (
            {"extra": {"blk.0.attn_q.bias": np.zeros(WIDTH, np.float32)}},
            "unknown tensor 'blk.0.attn_q.bias'",
        ),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, options, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        converted(tmp_path, tiny_weights(), **options)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_missing_or_misshapen_tensor_is_refused(tmp_path):
    weights = tiny_weights()
    norm = weights.pop("model.layers.1.input_layernorm.weight")
    with pytest.raises(CheckpointError, match=r"missing tensor 'blk\.1\.attn_norm\.weight'"):
        converted(tmp_path, weights)
    (tmp_path / "out").rmdir()
    weights["model.layers.1.input_layernorm.weight"] = norm[:-32]
    with pytest.raises(CheckpointError, match=r"'blk\.1\.attn_norm\.weight' is \(32,\)"):
        converted(tmp_path, weights)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, keep):
    write_gguf(tmp_path / "tiny.gguf", tiny_weights())
    whole = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"short\.gguf: not a readable Llama GGUF file"):
        convert(tmp_path / "short.gguf", tmp_path)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"PK" * 4000)
    with pytest.raises(CheckpointError, match="not a readable Llama GGUF file"):
        convert(tmp_path / "a.gguf", tmp_path)
