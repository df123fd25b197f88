"""``stretto sweep exits``: what is measured, the cost model beside it, and wrong options."""

import csv
import json
from pathlib import Path

import pytest

from stretto.cli import main
from stretto.engine.backends import open_backend
from stretto.engine.backends.native import library
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import ConfigError, InputError
from stretto.evals import sweep as sweep_module
from stretto.evals.drafting import TASKS, Shared, load_prompts
from stretto.evals.sweep import COLUMNS, SweepConfig, predicted, sweep, write
from stretto.models.exits import Exits, plain_head
from stretto.streams import SINGLE


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no development pack


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Shared:
    if why := library.why_not():
        pytest.skip(why)
    shared = object.__new__(Shared)
    lm = shared.lm = tiny_lm(SINGLE)
    for layer in lm.base.get_decoder().layers[1:]:  # an exit before them is often right
        layer.self_attn.o_proj.weight.data *= 0.03
        layer.mlp.down_proj.weight.data *= 0.03
    shared.backend = open_backend("native:float32", lm)
    shared.exits = Exits.of(lm, {1: plain_head(lm, 1)}, {})
    shared._codec, shared._stops = tiny_codec(), ()
    monkeypatch.setattr(sweep_module, "Shared", lambda *_: shared)
    return shared


def test_a_sweep_of_a_tiny_model(tiny: Shared, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    told = []
    config = SweepConfig(layers=(1, 2), lengths=(1, 3), limit=1, max_rows=12)
    lines = sweep(config, lambda *what: told.append(what))
    assert [(x["task"], x["layer"], x["rows"]) for x in lines] == [
        (task, layer, rows) for task in (*TASKS, "all") for layer in (1, 2) for rows in (1, 3)
    ]
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5, 6] and told[-1][1] == 6
    assert all(line["mismatches"] == 0 and line["speedup"] > 0 for line in lines)
    late = lines[-1]  # after two of three layers, of which the last does little
    assert late["generations"] == 3 and late["acceptance"] > 0.5 and late["rows_per_pass"] > 1.5
    assert late["per_draft"] <= late["acceptance"]
    table, picture = write(lines, tmp_path / "a.csv", tmp_path / "new" / "a.png")
    with table.open() as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_model_without_exits_needs_layers(tiny: Shared) -> None:
    tiny.exits = None
    with pytest.raises(ConfigError, match="--exits DIR, or --layers"):
        sweep(SweepConfig(limit=1, max_rows=2))


def test_the_cost_model_is_that_of_the_paper() -> None:
    """Three drafts of a fifth of a step each, at an acceptance of one half; a half is layers."""
    rows, cost = 1 + 0.5 + 0.25 + 0.125, 3 * 0.2 + 0.5 + 0.5 * 1.2
    assert predicted(0.5, 3, 0.2, 0.5, 1.2) == pytest.approx(rows / cost)
    assert predicted(1.0, 3, 0.0, 0.5, 1.0) == pytest.approx(4.0)
    assert predicted(0.0, 4, 0.1, 0.2, 1.0) == pytest.approx(1 / 1.4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "0"], "limit"),
        (["--lengths", "2", "0"], "lengths"),
        (["--max-rows", "1"], "max_rows: give 2 or more"),
        (["--source", "nowhere"], "nowhere"),
        (["no-such-model"], "no-such-model"),
        (["--layers", "three"], "three"),
    ],
)
def test_wrong_options(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["sweep", "exits", *arguments])
    assert exit_.value.code in (1, 2) if said == "three" else exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_prompts_of_our_own_and_of_the_pack(tmp_path: Path) -> None:
    own = load_prompts(None, 2)
    assert tuple(own) == TASKS and all(len(texts) == 2 for texts in own.values())
    items = {
        "user252.jsonl": {"instruction": "Rewrite.", "instances": [{"input": "A b."}]},
        "pubmedqa_100.jsonl": {"CONTEXTS": ["One.", "Two."]},
        "humaneval164.jsonl": {"prompt": "def f():"},
    }
    for name, item in items.items():
        (tmp_path / name).write_text(json.dumps(item) + "\n")
    given = load_prompts(tmp_path, 5)
    assert given["chat"] == ["Rewrite.\n\nA b."] and given["summary"][0].endswith("One. Two.")
    (tmp_path / "humaneval164.jsonl").write_text('{"prompt": "x"}\n{"text": 1}\n')
    with pytest.raises(InputError, match="line 2: no item of the task code"):
        load_prompts(tmp_path, 5)
