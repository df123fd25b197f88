"""Exit heads: their arithmetic, their folders, and every refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stretto.engine.testing import random_table, tiny_lm
from stretto.errors import CheckpointError
from stretto.models import MultiStreamLM, StreamBatch, store
from stretto.models.checkpoint import load
from stretto.models.exits import ExitHead, Exits, fingerprint, plain_head, shipped_exits

IDS = torch.tensor([3, 65, 66, 256, 257])  # 256 and 257: silence and end of the tiny model


def head_of(lm: MultiStreamLM, layer: int, inner: int = 6) -> ExitHead:
    head = ExitHead(layer, IDS, 32, inner, float(lm.config.rms_norm_eps))
    generator = torch.Generator().manual_seed(layer)
    for parameter in head.parameters():
        # bfloat16 numbers, so that files lose nothing
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(drawn.bfloat16())
    return head


def exits_of(lm: MultiStreamLM) -> Exits:
    return Exits.of(lm, {2: head_of(lm, 2), 1: head_of(lm, 1, 0)}, {"command": "a test"})


def unembedding(lm: MultiStreamLM) -> torch.Tensor:
    return torch.cat([lm.base.get_output_embeddings().weight, lm.special_out]).detach()


def test_arithmetic_of_a_head() -> None:
    lm = tiny_lm()
    head, x = head_of(lm, 1), torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    p = {name: value.detach().double().numpy() for name, value in head.named_parameters()}

    def rms(v: np.ndarray) -> np.ndarray:
        return v / np.sqrt((v**2).mean(-1, keepdims=True) + lm.config.rms_norm_eps)

    x_ = x.double().numpy()
    n = rms(x_) * p["norm_in"]
    gate, up = n @ p["gate_up"][:6].T, n @ p["gate_up"][6:].T
    hidden = x_ + (gate / (1 + np.exp(-gate)) * up) @ p["down"].T
    logits = (rms(hidden) * p["norm"]) @ unembedding(lm).double().numpy()[IDS.numpy()].T
    assert np.allclose(head.logits(x, unembedding(lm)).detach().numpy(), logits, atol=1e-4)
    assert np.allclose(head.hidden(x).detach().numpy(), hidden, atol=1e-4)


def test_a_new_head_adds_nothing_and_the_plain_one_is_the_models_own_end() -> None:
    lm = tiny_lm()
    batch = StreamBatch.from_cells([random_table(lm, 5, seed=1).cells()])
    with torch.inference_mode():
        out = lm(batch, exits=[2])
        last = lm.base.get_decoder().layers[2]
        captured = []
        handle = last.register_forward_hook(lambda *a: captured.append(a[2]))
        lm(batch)
        handle.remove()
    # The state that the model unembeds after its last layer, through the plain head of layer 2.
    head = plain_head(lm, 2)
    final = captured[0] if isinstance(captured[0], torch.Tensor) else captured[0][0]
    assert torch.allclose(head.logits(final, unembedding(lm)).flatten(0, 1), out.logits, atol=1e-5)
    fresh = ExitHead(2, IDS, 32, 6, 1e-6)
    assert torch.equal(fresh.hidden(out.exits[2]), out.exits[2])


def test_round_trip(tmp_path: Path) -> None:
    lm = tiny_lm()
    exits = exits_of(lm)
    exits.save(tmp_path / "exits")
    again = Exits.load(tmp_path / "exits", lm)
    assert again.layers == [1, 2]
    assert (again.base, again.fingerprint, again.made) == (
        lm.base_name,
        fingerprint(lm),
        exits.made,
    )
    x = torch.randn(3, 32)
    for layer, head in exits.heads.items():
        mine, theirs = (
            head.logits(x, unembedding(lm)),
            again.heads[layer].logits(x, unembedding(lm)),
        )
        assert torch.equal(mine, theirs)
        assert again.heads[layer].inner == head.inner
    assert not any(p.requires_grad for h in again.heads.values() for p in h.parameters())


def test_a_fingerprint_outlives_precision_but_not_another_model() -> None:
    lm = tiny_lm()
    mine = fingerprint(lm)
    assert fingerprint(tiny_lm()) == mine
    assert fingerprint(tiny_lm(seed=1)) != mine
    lm.base.to(torch.bfloat16)
    assert fingerprint(lm) == mine
    lm.stream_embedding.data.neg_()  # a checkpoint of the same base
    assert fingerprint(lm) != mine


def test_exits_do_not_become_part_of_the_model() -> None:
    lm = tiny_lm()
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    lm.exits = exits_of(lm)
    assert lm.state_dict().keys() == before.keys()
    assert all(torch.equal(lm.state_dict()[name], value) for name, value in before.items())


def damaged(folder: Path, **changes: object) -> None:
    """Change the card or, by the name ``LAYER.tensor``, a tensor (None: leave it out)."""
    tensors = load_file(folder / "exits.safetensors")
    card = json.loads((folder / "exits.json").read_text())
    for key, value in changes.items():
        name = key.replace("_", ".", 1)
        if value is None:
            (tensors if name in tensors else card).pop(name if name in tensors else key)
        elif isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            card[key] = value
    save_file(tensors, folder / "exits.safetensors")
    (folder / "exits.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this stretto reads 1"),
        ({"layers": None}, "incomplete"),
        ({"layers": [3], "eps": {"3": 1e-6}}, "exit after layer 3: give 1 to 2"),
        ({"2_norm": torch.ones(31)}, r"norm of exit 2 has shape \(31,\), expected \(32,\)"),
        ({"2_gate_up": torch.ones(10, 32)}, "gate_up of exit 2 has shape"),
        ({"2_gate_up": None}, "exit 2 lacks tensors"),
        ({"1_norm": None}, "exit 1 lacks tensors"),
        ({"1_ids": torch.tensor([2, 1])}, "not a rising list"),
        ({"1_ids": torch.tensor([2, 258])}, "ids from 0 to 257"),
        ({"unembedding": "0"}, "whose unembedding is not that of this model"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    lm = tiny_lm()
    exits_of(lm).save(tmp_path)
    damaged(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        Exits.load(tmp_path, lm)


def test_refuses_another_model_and_a_cut_file(tmp_path: Path) -> None:
    lm = tiny_lm()
    exits_of(lm).save(tmp_path)
    with pytest.raises(CheckpointError, match="take its own, or train some"):
        Exits.load(tmp_path, tiny_lm(seed=1))
    path = tmp_path / "exits.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"exits\.safetensors: unreadable"):
        Exits.load(tmp_path, lm)
    (tmp_path / "exits.json").unlink()
    with pytest.raises(CheckpointError, match=r"exits\.json: unreadable"):
        Exits.load(tmp_path, lm)
    with pytest.raises(CheckpointError, match="exit after layer 3: give 1 to 2"):
        plain_head(lm, 3)


def test_what_ships_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    folder = tmp_path / "adapters" / "exits-tiny"
    exits_of(lm).save(folder)
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    assert store.exits_names() == ["exits-tiny"]
    assert (store.exits_for("tiny"), store.exits_for("other")) == (folder, None)
    found = shipped_exits(lm, "tiny")
    assert found is not None
    assert found.layers == [1, 2]
    assert shipped_exits(lm, "other") is None
    row = next(row for row in store.list_models() if row["name"] == "exits-tiny")
    assert row.items() >= {"kind": "exits", "in_cache": True, "licence": "Apache-2.0"}.items()
    facts = store.show("exits-tiny")
    assert facts.items() >= {"kind": "exits", "exits": [1, 2], "licence": "Apache-2.0"}.items()
    assert store.verify("exits-tiny") == 2
    with pytest.raises(CheckpointError, match="is no model: it is what tiny can be left by"):
        store.resolve("exits-tiny")


def test_shipped_exits_are_read_once_and_only_if_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_lm().save_pretrained(tmp_path / "model")
    read = []

    def reading(folder: Path, lm: MultiStreamLM) -> Exits:
        read.append(folder)
        return exits_of(lm)

    monkeypatch.setattr("stretto.models.exits.exits_for", lambda name: Path(name).parent / "exits")
    monkeypatch.setattr(Exits, "load", reading)
    lm = MultiStreamLM.from_pretrained(tmp_path / "model")
    assert not read
    found = lm.exits
    assert found is not None and lm.exits is found and read == [tmp_path / "exits"]
    own = exits_of(lm)
    lm.exits = own
    assert lm.exits is own and len(read) == 1
    lm.exits = None
    assert lm.exits is None and len(read) == 1
    trained = load(MultiStreamLM, tmp_path / "model", trainable=True)
    assert trained.exits is None and len(read) == 1, "its weights are about to change"


def test_shipped_exits_are_what_their_manifests_say() -> None:
    for name in store.exits_names():
        folder = store.exits_for(name.removeprefix("exits-"))
        assert folder is not None
        assert store.verify(name) == len(list(folder.iterdir())) - 1, name
        assert sum(path.stat().st_size for path in folder.iterdir()) < 25e6, name
