"""Exit heads are trained: texts, states, heads, figures, whole runs; the model stays as it is."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stretto.cli import main
from stretto.engine.testing import random_table, tiny_lm
from stretto.errors import ConfigError, InputError
from stretto.evals.exits import COLUMNS, ExitEval, evaluate
from stretto.models import MultiStreamLM, StreamBatch
from stretto.models.exits import Exits, plain_head
from stretto.runs import Run
from stretto.streams.shards import Sample
from stretto.training import exit_texts
from stretto.training.exit_config import (
    AnswerSettings,
    ExitConfig,
    exit_recipe_names,
    load_exit_recipe,
)
from stretto.training.exit_figures import figures, speed_up
from stretto.training.exit_heads import full_unembedding, new_heads, shortlist, train_heads
from stretto.training.exit_states import States, collect, held_out, load_states
from stretto.training.exit_texts import Request
from stretto.training.exits import train_exits
from tests.streams.bpe_codec import bpe_codec
from tests.training.small import prepare

CONFIG = ExitConfig(base="tiny", tables="none", layers=(1, 2), inner=16, batch=64, passes=12,
                    dtype="float32", save_every=5, learning_rate=1e-2)  # fmt: skip
IDS = torch.arange(258)


def samples_of(lm: MultiStreamLM, count: int = 12) -> list[Sample]:
    tables = [random_table(lm, 24, seed=i) for i in range(count)]
    return [Sample(t.cells(), "audit", 0, {"id": str(i // 2)}) for i, t in enumerate(tables)]


@pytest.fixture(scope="module")
def lm() -> MultiStreamLM:
    return tiny_lm()


@pytest.fixture(scope="module")
def states(lm: MultiStreamLM, tmp_path_factory: pytest.TempPathFactory) -> States:
    folder = tmp_path_factory.mktemp("states")
    collect(lm, samples_of(lm), folder, [1, 2], max_cells=10**6, pack_cells=256)
    return load_states(folder)


def test_states_are_those_of_the_model(lm: MultiStreamLM, states: States) -> None:
    samples = samples_of(lm)
    assert len(states) == sum(int((s.cells.labels >= 0).sum()) for s in samples)
    with torch.inference_mode():
        for number in (0, 7):
            cells = samples[number].cells
            out = lm(StreamBatch.from_cells([cells]), exits=[1, 2])
            asked = torch.from_numpy(cells.labels >= 0)
            mine = states.where(states.sample == number)
            for layer in (1, 2):
                assert torch.allclose(
                    mine.at[layer].float(), out.exits[layer][0, asked], rtol=0.02, atol=0.02
                )
            assert torch.equal(mine.top.long(), out.logits[asked].argmax(-1))
            assert mine.said.tolist() == cells.labels[asked.numpy()].tolist()
            assert mine.row.tolist() == cells.rows[asked.numpy()].tolist()
            assert mine.stream.tolist() == cells.streams[asked.numpy()].tolist()


def test_collecting_goes_on_and_stops_where_told(lm: MultiStreamLM, tmp_path: Path) -> None:
    told: list[int] = []
    samples = samples_of(lm, 90)
    passes = {"max_cells": 200 * 20, "pack_cells": 200}

    def tell(done: int, total: int, what: str) -> None:
        told.append(done)

    collect(lm, samples, tmp_path, [1], tell=tell, **passes)
    assert told == list(range(1, 21))
    whole, files = load_states(tmp_path), sorted(tmp_path.iterdir())
    files[1].unlink()  # the run was stopped before it
    told.clear()
    collect(lm, samples, tmp_path, [1], tell=tell, **passes)
    assert told == [17, 18, 19, 20]
    assert torch.equal(load_states(tmp_path).at[1], whole.at[1])
    files[0].write_bytes(b"half")
    with pytest.raises(InputError, match=r"00000\.safetensors: damaged"):
        load_states(tmp_path)
    with pytest.raises(InputError, match="no states"):
        load_states(tmp_path / "elsewhere")


def test_few_cells_are_of_short_and_long_samples_alike(lm: MultiStreamLM, tmp_path: Path) -> None:
    tables = [random_table(lm, 4 if i % 2 else 40, seed=i) for i in range(80)]
    samples = [Sample(table.cells(), "audit", 0, {}) for table in tables]
    collect(lm, samples, tmp_path, [1], max_cells=1200, pack_cells=120)
    assert {int(i) % 2 for i in load_states(tmp_path).sample} == {0, 1}


def test_samples_of_one_id_are_held_out_together(lm: MultiStreamLM) -> None:
    out = held_out(samples_of(lm), 0.3, 0)
    assert out.reshape(6, 2).all(1).sum() == out.reshape(6, 2).any(1).sum() == 2
    assert (held_out(samples_of(lm), 0.3, 0) == out).all()


def test_a_shortlist_has_what_is_frequent_and_what_must_be_there() -> None:
    codec = bpe_codec()
    said = np.repeat(np.arange(300, 320), 5)
    ids = shortlist(256, codec, said, np.array([400] * 8 + [401] * 30), [7]).tolist()
    assert sorted(set(ids)) == ids
    assert {*range(300, 320), 401, 7, codec.special.silence, codec.special.end} <= set(ids)
    assert {codec.encode(c)[0] for c in "0123456789.,;:!?()\n"} <= set(ids)
    assert {codec.token_id("<|im_start|>"), codec.token_id("<|im_end|>")} <= set(ids)
    assert len(shortlist(1, codec, said, said, [7])) > 100  # never less than it must have


def trained(lm: MultiStreamLM, states: States, **options: object) -> dict[int, object]:
    heads = new_heads(lm, states, IDS, 16, 0)
    options = {"dtype": torch.float32, **options}
    train_heads(heads, states, full_unembedding(lm), CONFIG, **options)  # type: ignore[arg-type]
    return heads  # type: ignore[return-value]


def test_training_teaches_the_heads_and_leaves_the_model(lm: MultiStreamLM, states: States) -> None:
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    unembedding = full_unembedding(lm)
    groups = ["any"] * len(states)
    new = new_heads(lm, states, IDS, 16, 0)
    heads = trained(lm, states)
    rows = figures({"new": new, "head": heads}, states, unembedding, groups)  # type: ignore[dict-item]
    share = {(r["kind"], r["layer"]): r["agreement"] for r in rows if r["group"] == "all"}
    for layer in (1, 2):
        assert share["head", layer] > share["new", layer] + 0.1
    assert all(torch.equal(lm.state_dict()[name], value) for name, value in before.items())
    with torch.inference_mode():
        batch = StreamBatch.from_cells([samples_of(lm)[0].cells])
        assert torch.equal(lm(batch).logits, tiny_lm()(batch).logits)


def test_training_that_was_stopped_ends_as_if_it_had_not_been(
    lm: MultiStreamLM, states: States, tmp_path: Path
) -> None:
    path = tmp_path / "heads.pt"
    whole = trained(lm, states, checkpoint=path)

    class StopError(Exception):
        pass

    def log(step: int, steps: int, losses: dict[str, float]) -> None:
        if step == 20:
            raise StopError

    path.unlink()
    with pytest.raises(StopError):
        trained(lm, states, checkpoint=path, log=log)
    again = trained(lm, states, checkpoint=path)
    for layer, head in whole.items():
        theirs = again[layer].state_dict()  # type: ignore[attr-defined]
        for name, value in head.state_dict().items():  # type: ignore[attr-defined]
            assert torch.equal(value, theirs[name]), (layer, name)


def test_figures_by_hand(lm: MultiStreamLM) -> None:
    """The plain head after the last norm's input is the model; a short list covers less."""
    unembedding = full_unembedding(lm)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 32, generator=generator)
    head = plain_head(lm, 2)
    final = head.normed(x).detach()
    top = (final @ unembedding.T).argmax(-1)
    row = torch.arange(40) // 2  # two outputs a row
    zeros = torch.zeros(40, dtype=torch.int64)
    said = top.clone()
    states = States({2: x}, final, top, said, zeros, zeros, row)
    groups = ["a"] * 10 + ["b"] * 30
    keep = torch.cat([top[:1], torch.arange(5)]).unique()
    heads: dict[str, dict[int, object]] = {"whole": {2: head}, "few": {2: plain_head(lm, 2, keep)}}
    found = figures(heads, states, unembedding, groups, perplexity=True)  # type: ignore[arg-type]
    rows = {(r["kind"], r["group"]): r for r in found}
    assert rows["whole", "all"]["agreement"] == rows["whole", "all"]["rows_agreed"] == 1
    named = torch.isin(top, keep)
    assert rows["few", "a"]["agreement"] == pytest.approx(named[:10].float().mean().item())
    assert rows["few", "b"]["coverage"] == pytest.approx(named[10:].float().mean().item())
    both = named.view(20, 2).all(1).float().mean().item()
    assert rows["few", "all"]["rows_agreed"] == pytest.approx(both)
    loss = torch.nn.functional.cross_entropy(final[10:] @ unembedding.T, said[10:])
    assert rows["model", "b"]["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)
    assert rows["whole", "b"]["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)
    assert sum(step["count"] for step in rows["few", "all"]["calibration"]) == 40


def test_predicted_speed_up_is_that_of_the_notes() -> None:
    # Notes on LayerSkip, section 5.4, ideal memory-bound, 4k shortlist.
    for layer, acceptance, wanted, drafts in [
        (8, 0.8, 1.76, 4),
        (4, 0.6, 1.59, 3),
        (6, 0.9, 2.56, 7),
    ]:
        found = speed_up(acceptance, layer, 4096 / 49152 * 8, layers=30, head=8, verify=1)
        assert found[0] == pytest.approx(wanted, abs=0.006)
        assert found[1] == drafts
    assert speed_up(0.1, 20, 8, layers=30, head=8, verify=1) == (1.0, 0)


ROWS = {
    "gpteacher_roleplay.jsonl": {"instruction": "Speak as a teacher.", "input": "three"},
    "selfinstruct_seed.jsonl": {"instruction": "Add.", "instances": [{"input": "1 2"}]},
    "t0_permissive.jsonl": {"prompt": "Read this. "},
    "pubmedqa_400.jsonl": {"CONTEXTS": ["One is so. Two is not so."]},
    "mbpp_601_974_minus_plus.jsonl": {"text": "Write add."},
    "codeio_hq.jsonl": {"task_description": "Sort a list."},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, row in ROWS.items():
        lines = []
        for i in range(12):
            key = next(k for k in row if k != "instances")
            value = row[key]
            numbered = [f"{value[0]} {i}."] if isinstance(value, list) else f"{value} {i}"
            lines.append(json.dumps({**row, key: numbered}) + "\n")
        (folder / name).write_text("".join(lines) + lines[0])
    return folder


def test_requests_are_mixed_and_none_comes_twice(source: Path) -> None:
    asked = exit_texts.requests(source, 32, 0)
    assert asked == exit_texts.requests(source, 32, 0) != exit_texts.requests(source, 32, 1)
    assert len(set(asked)) == len(asked) == 32
    assert {domain for domain, _ in asked} == {"chat", "code", "summary", "passage"}
    (source / "codeio_hq.jsonl").unlink()
    with pytest.raises(InputError, match="codeio_hq"):
        exit_texts.requests(source, 32, 0)


def test_a_prompt_is_the_chat_format_and_its_text_stays_text() -> None:
    codec = bpe_codec()
    ids = exit_texts.prompt_ids(codec, "say <|im_end|>")
    assert codec.decode(ids).endswith("user\nsay <|im_end|><|im_end|>\n<|im_start|>assistant\n")
    assert sum(i == codec.token_id("<|im_end|>") for i in ids) == 2  # system's and the user's own


def speak(requests: Sequence[Request]) -> list[list[int]]:
    end = bpe_codec().special.end
    return [[*range(40 + r.number % 7, 52), end] for r in requests]


def run_config(tmp_path: Path, **changes: object) -> ExitConfig:
    prepare(tmp_path)
    answers = AnswerSettings(requests=24, max_prompt=200)
    config = ExitConfig(
        base=str(tmp_path / "base"), answers=answers, layers=(1,), inner=8, shortlist=300,
        batch=32, passes=2, dtype="float32", held_out=0.2,
    )  # fmt: skip
    return replace(config, **changes)  # type: ignore[arg-type]


def test_a_whole_run_and_its_resumption(tmp_path: Path, source: Path) -> None:
    config = run_config(tmp_path)
    output = tmp_path / "run"
    options = {"source": source, "speak": speak}
    folder = train_exits(config, output, command="stretto exits train", **options)  # type: ignore[arg-type]
    lm = MultiStreamLM.from_pretrained(config.base, dtype="float32", device="cpu")
    exits = Exits.load(folder, lm)
    assert exits.layers == [1]
    assert exits.made["command"] == "stretto exits train"
    assert {row["group"] for row in exits.made["held_out"]} >= {"all", "code"}
    run = Run.open(output)
    assert run.status == "finished"
    assert set(run.metrics()) == {"states", "held_out_states", "figures", "coverage"}
    answers = (output / "answers.jsonl").read_text()
    first = (folder / "exits.safetensors").read_bytes()
    (output / "answers.jsonl").write_text("".join(answers.splitlines(keepends=True)[:9]))
    (output / "heads.pt").unlink()
    train_exits(config, output, resume=True, **options)  # type: ignore[arg-type]
    assert (folder / "exits.safetensors").read_bytes() == first
    assert (output / "answers.jsonl").read_text() == answers
    with pytest.raises(ConfigError, match="another held_out"):
        train_exits(replace(config, held_out=0.3), output, resume=True, **options)  # type: ignore[arg-type]
    train_exits(replace(config, inner=9), output, resume=True, **options)  # type: ignore[arg-type]
    assert Exits.load(folder, lm).heads[1].inner == 9
    assert Run.open(output).config()["inner"] == 9
    with pytest.raises(InputError, match="holds a run already"):
        train_exits(config, output, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give --source"):
        train_exits(config, tmp_path / "other", speak=speak)
    rows = evaluate(ExitEval(config.base, exits=folder, text=_text(tmp_path), limit=2))
    assert {(r["kind"], r["layer"]) for r in rows} == {("model", None), ("head", 1), ("plain", 1)}
    assert all(set(row) <= {*COLUMNS, "calibration"} for row in rows)
    assert next(r for r in rows if r["kind"] == "model")["perplexity_ratio"] == 1


def _text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("The total is 12*4 = 48 legs, so the answer is 48. " * 20)
    return path


def test_tables_are_read_by_a_checkpoint_only(tmp_path: Path) -> None:
    config = run_config(tmp_path, answers=None, tables="mixture")
    with pytest.raises(ConfigError, match="has no streams to read tables with"):
        train_exits(config, tmp_path / "run", data=tmp_path / "data")
    lm = MultiStreamLM.from_pretrained(config.base, streams=_inventory(tmp_path), device="cpu")
    torch.nn.init.normal_(lm.stream_embedding)
    lm.save_pretrained(tmp_path / "checkpoint")
    config = replace(config, base=str(tmp_path / "checkpoint"))
    folder = train_exits(config, tmp_path / "run2", data=tmp_path / "data")
    groups = {
        row["group"] for row in json.loads((folder / "exits.json").read_text())["made"]["held_out"]
    }
    assert any(group.startswith("answer, ") for group in groups)
    rows = evaluate(ExitEval(config.base, exits=folder, data=tmp_path / "data", limit=3))
    assert any(row["group"].startswith("answer, ") for row in rows)


def _inventory(folder: Path) -> object:
    from stretto.streams.shards import load_shards

    return load_shards(folder / "data").streams


def test_shipped_recipes_are_sound_and_mistakes_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in exit_recipe_names():
        assert load_exit_recipe(name).base == name.removeprefix("exits-")
    for overrides, message in [
        (["layers=[4, 2]"], "rising numbers"),
        (["held_out=1"], "held_out"),
        (["answers=null"], "either answers"),
        (["inners=3"], "did you mean inner"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_exit_recipe("exits-smollm2-135m", overrides)
    with pytest.raises(ConfigError, match="no exit recipe 'nothing'"):
        load_exit_recipe("nothing")
    with pytest.raises(SystemExit) as exit_:
        main(["exits", "train", "exits-smollm2-135m", "--set", "inner=256", "--dry-run"])
    assert not exit_.value.code
    assert "inner: 256" in capsys.readouterr().out
