"""From a recipe to shards and back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bpe_codec import bpe_codec
from tick_codec import byte_codec

from stretto.errors import ConfigError, InputError
from stretto.streams import AUDIT, READ, SINGLE, StreamSet, union
from stretto.streams.build import (
    Recipe,
    Sample,
    Source,
    build,
    load_recipe,
    load_shards,
    recipe_names,
)
from stretto.streams.shards import save_shards
from stretto.streams.ticks import validate

CODEC = bpe_codec()
ROWS = [
    {
        "question": f"Ann has {n} hens. Bob has {n + 1} ducks. How many birds are there?",
        "answer": f"They have {n}+{n + 1} = <<{n}+{n + 1}={2 * n + 1}>>{2 * n + 1} birds.\n"
        f"#### {2 * n + 1}",
    }
    for n in range(2, 32)
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "toy.jsonl").write_text(text, encoding="utf-8")
    return folder


def part(**fields: Any) -> Source:
    return Source(**({"task": "gsm8k", "set": "read", "count": 8, "file": "toy.jsonl"} | fields))


RECIPE = Recipe(
    sources=(
        part(repeat=2),
        part(set="audit", skip=4, count=10, error_rate=0.5, lags={0: 1.0}),
    ),
    max_cells=600,
)


def built(source: Path, folder: Path, recipe: Recipe = RECIPE, **options: Any) -> dict[str, Any]:
    return build(recipe, folder, codec=CODEC, source=source, **options)


def test_what_is_built_is_what_is_loaded(source: Path, tmp_path: Path) -> None:
    manifest = built(source, tmp_path / "data")
    shards = load_shards(tmp_path / "data")
    assert shards.streams == union([READ, AUDIT])
    assert shards.sets == {"read": READ, "audit": AUDIT}
    assert shards.special == CODEC.special
    assert len(shards.samples) == manifest["num_samples"] == 18 - manifest["dropped"]
    for i, sample in enumerate(shards.samples):
        table = shards.table(i, CODEC)
        validate(table)
        assert table.text("answer").partition("Answer: ")[2] == sample.meta["answer"]
        again = Sample.of(table, shards.streams)
        for name in ("tokens", "streams", "rows", "labels"):
            assert np.array_equal(getattr(again.cells, name), getattr(sample.cells, name))
        assert again.meta == sample.meta


def test_the_seed_decides(source: Path, tmp_path: Path) -> None:
    one, two, other = (built(source, tmp_path / f"d{i}", seed=s) for i, s in enumerate((0, 0, 1)))
    assert one == two
    assert one["files"] != other["files"]


def test_sources_of_a_task_share_no_example(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "data")
    ids: dict[str, list[str]] = {"read": [], "audit": []}
    for sample in load_shards(tmp_path / "data").samples:
        ids[sample.set].append(sample.meta["id"])
    assert not set(ids["read"]) & set(ids["audit"])
    assert max(ids["read"].count(name) for name in ids["read"]) == 2  # repeat
    assert len(set(ids["audit"])) == len(ids["audit"])


def test_the_single_stream_twin_has_the_same_examples(source: Path, tmp_path: Path) -> None:
    tight = Recipe(RECIPE.sources, max_cells=220)
    many = built(source, tmp_path / "many", tight)
    one = built(source, tmp_path / "one", Recipe(RECIPE.sources, single=True, max_cells=220))
    assert many["dropped"] == one["dropped"] > 0
    first, second = (load_shards(tmp_path / name) for name in ("many", "one"))
    assert second.streams == SINGLE
    assert [s.meta["id"] for s in first.samples] == [s.meta["id"] for s in second.samples]
    assert second.table(0, CODEC).text("text").endswith(second.samples[0].meta["answer"])


def test_statistics(source: Path, tmp_path: Path) -> None:
    manifest = built(source, tmp_path / "data")
    statistics, shards = manifest["statistics"], load_shards(tmp_path / "data")
    total = statistics["total"]
    assert total["tables"] == len(shards.samples)
    assert total["cells"] == manifest["num_cells"] == sum(len(s.cells) for s in shards.samples)
    silent = sum(int((s.cells.tokens == CODEC.special.silence).sum()) for s in shards.samples)
    assert total["silent_cells"] == silent
    assert total["trained_cells"] == sum(int((s.cells.labels >= 0).sum()) for s in shards.samples)
    assert total["planted_errors"] == sum("planted" in s.meta for s in shards.samples) > 0
    assert [(p["task"], p["set"]) for p in statistics["parts"]] == [
        ("gsm8k", "read"),
        ("gsm8k", "audit"),
    ]
    lags = statistics["lag_rows"]
    assert lags["answer"]["p90"] >= lags["answer"]["median"] > 0
    assert lags["audit"]["median"] > 0
    assert sum(statistics["lag"].values()) == total["tables"]


def test_limit_is_a_source(source: Path, tmp_path: Path) -> None:
    assert built(source, tmp_path / "data", limit=3)["statistics"]["total"]["tables"] <= 6


def test_shards_are_split_and_joined(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "a")
    whole = load_shards(tmp_path / "a")
    manifest = save_shards(
        tmp_path / "b", whole.samples, whole.streams, whole.special, whole.sets, {},
        cells_per_shard=500,
    )  # fmt: skip
    assert len(manifest["files"]) > 3
    again = load_shards(tmp_path / "b")
    for one, other in zip(whole.samples, again.samples, strict=True):
        assert np.array_equal(one.cells.tokens, other.cells.tokens)
        assert np.array_equal(one.cells.rows, other.cells.rows)
        assert one.meta == other.meta


def test_a_rebuild_leaves_no_old_shards(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "a")
    (tmp_path / "a" / "shard-00009.safetensors").write_bytes(b"old")
    built(source, tmp_path / "a", limit=2)
    assert [p.name for p in (tmp_path / "a").glob("shard-*")] == ["shard-00000.safetensors"]


def test_damage_is_noticed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with pytest.raises(InputError, match=r"no manifest\.json"):
        load_shards(folder)
    built(source, folder)
    shard = folder / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match="missing or damaged"):
        load_shards(folder)
    shard.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        load_shards(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(InputError, match="99"):
        load_shards(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_shards(folder)


def test_samples_are_looked_up_with_care(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "data", limit=1)
    shards = load_shards(tmp_path / "data")
    with pytest.raises(InputError, match="sample 2: there are 2"):
        shards.table(2)
    with pytest.raises(InputError, match="another vocabulary"):
        shards.table(0, byte_codec())
    with pytest.raises(InputError, match="no stream 'audit'"):
        Sample.of(shards.table(1), StreamSet(list(READ)))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"task": "sgd"}, "set agent"),
        ({"task": "nothing"}, "no task"),
        ({"file": None}, "file is missing"),
        ({"task": "leg_counting"}, "it is generated"),
        ({"count": 0}, "start at 1"),
        ({"lags": {}}, "lags"),
        ({"lags": {1: 0.0}}, "lags"),
        ({"error_rate": 0.5}, "set audit"),
    ],
)
def test_faulty_sources_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        part(**fields)


def test_faulty_recipes_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose from mixture"):
        load_recipe("nothing")
    with pytest.raises(ConfigError, match="either sources or like"):
        Recipe()
    path = tmp_path / "r.yaml"
    path.write_text("sources:\n  - {task: gsm8k, set: read, cuont: 3, file: toy.jsonl}\n")
    with pytest.raises(ConfigError, match="cuont"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="--source"):
        build(RECIPE, tmp_path / "data", codec=CODEC)
    with pytest.raises(InputError, match="31 examples wanted"):
        built(source, tmp_path / "data", Recipe((part(count=31),)))


def test_a_recipe_file_gives_lags_by_number_and_name(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "sources:\n"
        "  - {task: gsm8k, set: read, count: 3, file: toy.jsonl, lags: {2: 0.5, all: 0.5}}\n"
    )
    assert load_recipe(str(path)).sources[0].lags == {2: 0.5, "all": 0.5}
    manifest = build(str(path), tmp_path / "data", codec=CODEC, source=source)
    assert set(manifest["statistics"]["lag"]) <= {"2", "all"}


def test_shipped_recipes_are_sound() -> None:
    assert {"mixture", "mixture-single"} <= set(recipe_names())
    mixture, twin = load_recipe("mixture"), load_recipe("mixture-single")
    assert {source.set for source in mixture.sources} == {"read", "audit", "agent"}
    assert (twin.sources, twin.single, mixture.single) == (mixture.sources, True, False)
    for task in {source.task for source in mixture.sources}:
        spans = sorted(
            (s.skip, s.skip - (-s.count // s.repeat)) for s in mixture.sources if s.task == task
        )
        ends = [end for _, end in spans]
        assert all(start >= end for (start, _), end in zip(spans[1:], ends, strict=False))
