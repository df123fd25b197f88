"""Checkpoints: round trips, merged adapters, and every refusal."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from stretto.engine import Engine
from stretto.engine.testing import random_table, tiny_codec, tiny_lm
from stretto.errors import CheckpointError
from stretto.models import MultiStreamLM, StreamBatch, load_codec
from stretto.models.store import verify
from stretto.streams import AUDIT, READ, SINGLE, townhall


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    lm = tiny_lm()
    lm.base.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny_codec().tokenizer_json)
    return folder


def logits_of(lm: MultiStreamLM) -> Tensor:
    with torch.inference_mode():
        return lm(StreamBatch.from_cells([random_table(lm, 12, seed=2).cells()])).logits


def trained(base: Path, *, lora: bool, rule: str = "strict") -> MultiStreamLM:
    lm = MultiStreamLM.from_pretrained(base, streams=AUDIT, mask_rule=rule, dtype="float32",
                                       device="cpu")  # fmt: skip
    lm.sets = {"read": READ}
    torch.manual_seed(5)
    if lora:
        config = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
        lm.base = get_peft_model(lm.base, config).eval()
    else:
        lm.base.get_input_embeddings().weight.data += 0.1
    torch.nn.init.normal_(lm.stream_embedding)
    torch.nn.init.normal_(lm.special_out)
    return lm


def load(folder: Path, **options: object) -> MultiStreamLM:
    return MultiStreamLM.from_pretrained(folder, dtype="float32", device="cpu", **options)


def test_full_checkpoint_round_trip(base: Path, tmp_path: Path) -> None:
    lm = trained(base, lora=False)
    lm.save_pretrained(tmp_path / "full")
    again = load(tmp_path / "full")
    assert torch.equal(logits_of(lm), logits_of(again))
    assert (again.streams, again.mask_rule, again.sets) == (AUDIT, "strict", {"read": READ})
    assert load_codec(tmp_path / "full").encode("hé") == tiny_codec().encode("hé")


def test_adapter_round_trip_merged_and_not(base: Path, tmp_path: Path) -> None:
    lm = trained(base, lora=True)
    lm.save_pretrained(tmp_path / "lora")
    assert not (tmp_path / "lora" / "config.json").exists()
    apart = load(tmp_path / "lora", trainable=True).eval()
    merged = load(tmp_path / "lora")
    assert torch.equal(logits_of(lm), logits_of(apart))
    assert (logits_of(merged) - logits_of(lm)).abs().max() < 1e-4
    plain = load(base, streams=AUDIT, mask_rule="strict")
    assert (logits_of(plain) - logits_of(lm)).abs().max() > 0.1
    assert {"lora"} <= set(apart.trainable()) and "lora" not in merged.trainable()


def test_saving_replaces_what_is_there(base: Path, tmp_path: Path) -> None:
    lm = trained(base, lora=True)
    lm.save_pretrained(tmp_path / "out")
    lm.stream_embedding.data.zero_()
    lm.save_pretrained(tmp_path / "out")
    assert load(tmp_path / "out").stream_embedding.abs().max() == 0
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("lora", [True, False])
def test_saved_files_have_checksums(base: Path, tmp_path: Path, lora: bool) -> None:
    folder = tmp_path / "out"
    trained(base, lora=lora).save_pretrained(folder)
    assert verify(str(folder)) == len(list(folder.iterdir())) - 1
    (folder / "stretto.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"stretto\.safetensors: missing or damaged"):
        verify(str(folder))


def test_an_engine_loads_base_and_checkpoint(base: Path, tmp_path: Path) -> None:
    engine = Engine.load(base, dtype="float32", device="cpu")
    assert engine.streams == SINGLE
    assert not engine.open(prompts={"text": "a"}).setup.sampling["text"].silence
    trained(base, lora=True).save_pretrained(tmp_path / "lora")
    engine = Engine.load(tmp_path / "lora", dtype="float32", device="cpu")
    session = engine.open()
    assert (engine.streams, session.streams) == (AUDIT, READ)
    assert session.setup.sampling["answer"].silence


def test_mismatches_are_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    trained(base, lora=True).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="trained with mask rule 'strict'"):
        load(folder, mask_rule="inclusive")
    with pytest.raises(CheckpointError, match="has no stream moderator"):
        load(folder, streams=townhall(2))
    assert load(folder, mask_rule="strict", streams=READ).streams == AUDIT
    with pytest.raises(CheckpointError, match="dtype 'float99'"):
        MultiStreamLM.from_pretrained(folder, dtype="float99")


def test_damaged_checkpoints_are_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    trained(base, lora=True).save_pretrained(folder)
    card = json.loads((folder / "stretto.json").read_text())
    (folder / "stretto.json").write_text(json.dumps(card | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load(folder)
    card["special"] = {"silence": 9, "end": 10}
    (folder / "stretto.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="base with 9 tokens"):
        load(folder)
    (folder / "stretto.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a stretto checkpoint"):
        load(folder)
