"""The tool tasks, what may be learnt from attempts, and a whole run with a tiny model."""

import asyncio
import inspect
import json
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stretto.agents.export import supervised, write_completions
from stretto.agents.improve import Problem, judge, trajectories
from stretto.agents.sandbox import open_sandbox
from stretto.cli.agent_improve import improve as command
from stretto.engine.testing import tiny_codec
from stretto.errors import ConfigError, InputError
from stretto.evals import improve as module
from stretto.evals.improve import ImproveConfig, improve
from stretto.evals.improve_report import Measured, Report, compare
from stretto.evals.tool_family import Task, tasks, tool_names
from stretto.evals.tool_family.entry import Entry, Pools
from stretto.evals.tool_family.held_back import HELD_BACK
from stretto.evals.tool_family.trained import TRAINED
from stretto.streams import IGNORE, SINGLE
from stretto.streams.shards import load_shards

# The tasks.


def test_held_back_slice_shares_nothing() -> None:
    assert not set(tool_names(held_back=True)) & set(tool_names(held_back=False))
    shapes = [
        {re.sub(r"\{\w+\}", "", text) for entry in entries for text in entry.templates}
        for entries in (TRAINED, HELD_BACK)
    ]
    assert not shapes[0] & shapes[1]
    trained, kept = (tasks(200, held_back=flag) for flag in (False, True))
    assert not {t.request for t in trained} & {t.request for t in kept}


def test_tasks_are_those_of_the_seed() -> None:
    first = tasks(80, held_back=True)
    assert [(t.id, t.request, t.right) for t in first] == [
        (t.id, t.request, t.right) for t in tasks(80, held_back=True)
    ]
    assert [t.request for t in first] != [t.request for t in tasks(80, held_back=True, seed=1)]
    assert len({t.request for t in first}) == len({t.id for t in first}) == 80
    counts = [t.tool.name for t in first]
    assert {counts.count(name) for name in tool_names(held_back=True)} == {5}


@pytest.mark.parametrize("entry", [*TRAINED, *HELD_BACK], ids=lambda entry: entry.name)
def test_results_tell_arguments_apart(entry: Entry) -> None:
    """Or a wrong call would pass for a right one; and the request names every value."""
    rng = random.Random(0)
    pools = Pools(("Ann Lee", "Bo Ray", "Cy Fox", "Di Moss"), ("Bonn", "Nice", "Kyiv"), 2023)
    for _ in range(20):
        request, arguments = entry.draw(rng, pools)
        assert "{" not in request and "[" not in request
        right = entry.function(**arguments)
        assert set(entry.schema["required"]) <= set(arguments) <= set(entry.schema["properties"])
        for name, value in arguments.items():
            assert str(value).strip("[]").split(",")[0].strip("'") in request
            default = inspect.signature(entry.function).parameters[name].default
            if value == default:  # spoken of though it need not be
                continue
            if name not in entry.schema["required"]:
                less = {k: v for k, v in arguments.items() if k != name}
                assert entry.function(**less) != right, name
            part = entry.schema["properties"][name]
            others = part.get("enum") or [value * 3 if not isinstance(value, list) else value[1:]]
            for other in others:
                if other != value:
                    assert entry.function(**arguments | {name: other}) != right, (name, other)
    namespace: dict[str, object] = {}
    exec(entry.source, namespace)
    assert entry.source.startswith("def ") and namespace[entry.name](**arguments) == right  # type: ignore[operator]


# Attempts.

PROBLEM = Problem(
    id="double-0",
    prompt="Double seven.",
    schema={"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    tool="double",
    setup="def double(x):\n    return 2 * x\n",
    right="double(**{'x': 7})",
)


def judged(*texts: str, problem: Problem = PROBLEM) -> list:
    async def go() -> list:
        async with open_sandbox("auto", warm=0) as box, box.session() as session:
            return await judge(problem, texts, session)

    return asyncio.run(go())


def test_attempts_are_run() -> None:
    texts = ['{"x": 7}', '{"x": 8}', '{"x": 7', "[7]", '{"y": 7}', '{"x": "77"}', '{"x": 7}',
             '{"x": 7.0}']  # fmt: skip
    found = judged(*texts)
    assert [each.text for each in found] == texts
    assert [each.reward for each in found] == [1, 0, 0, 0, 0, 0, 1, 0]
    told = [each.feedback.text for each in found]
    assert told[1:4] == ["another result", "no JSON object", "no JSON object"]
    assert told[4].startswith("TypeError")


def test_one_attempt_cannot_help_the_next() -> None:
    setup = "seen = []\ndef double(x):\n    seen.append(x)\n    return 2 * x * len(seen)\n"
    problem = Problem("p", "", {}, "double", setup, "double(**{'x': 7})")
    # The right call ran first, so each attempt is the second, alone in its copy.
    assert [a.reward for a in judged('{"x": 3.5}', '{"x": 3}', problem=problem)] == [0, 0]
    problem = Problem("p", "", {}, "double", setup, "seen.clear() or double(**{'x': 8})")
    assert [a.reward for a in judged('{"x": 1}', '{"x": 4}', problem=problem)] == [0, 1]


def test_a_broken_problem_is_told() -> None:
    with pytest.raises(InputError, match="its own code fails"):
        judged("{}", problem=Problem("p", "", {}, "f", "", "f()"))


def test_what_is_learnt(tmp_path: Path) -> None:
    found = judged('{"x": 8}', '{"x": 7}', '{"x": 7}', '{"x":7}', '{"x":  7}')
    kept = trajectories(PROBLEM, found, model="m", most=2)
    assert [t.attempts[-1].text for t in kept] == ['{"x": 7}', '{"x":7}']
    codec = tiny_codec()
    problem = "abc"
    conversations = [dict(c, messages=[{"role": "user", "content": problem}, *c["messages"][1:]])
                     for c in supervised(kept)]  # fmt: skip
    assert write_completions(tmp_path, conversations, codec) == 2
    shards = load_shards(tmp_path)
    assert shards.streams == SINGLE
    cells = shards.samples[0].cells
    answer = codec.encode('{"x": 7}')
    assert cells.tokens.tolist() == [*codec.encode(problem), *answer, codec.special.end]
    learnt = cells.labels[cells.labels != IGNORE].tolist()
    assert learnt == [*answer, codec.special.end]  # the prompt is not learnt
    assert "double(" not in json.dumps([s.meta for s in shards.samples])
    with pytest.raises(InputError, match="no answer is good enough"):
        write_completions(tmp_path, [], codec)
    with pytest.raises(InputError, match="not one question and one answer"):
        write_completions(tmp_path, [{"id": "a", "messages": [{"role": "user"}]}], codec)


# The figures.


def test_compare() -> None:
    before = {f"{tool}-{n}": n < 2 for tool in "ab" for n in range(4)}
    after = {key: value or key in ("a-2", "a-3") for key, value in before.items()}
    after["b-0"] = False
    row = compare(before, after, seed=0)
    assert (row["before"], row["after"], row["difference"]) == (50, 62.5, 12.5)
    assert (row["gained"], row["lost"], row["p"]) == (2, 1, 1.0)
    assert (row["tools"], row["tools_better"], row["tools_worse"]) == (2, 1, 1)
    assert row["difference_95"][0] < 12.5 < row["difference_95"][1]
    assert row["by_tool_95"] == [-25, 50]


def test_report_names_slices_and_seed() -> None:
    slice_ = {"a-1": True, "a-2": False}
    config = {"model": "m", "problems": 5, "samples": 2, "temperature": 0.8, "rank": 4,
              "learning_rate": 1e-3, "epochs": 1, "seed": 77}  # fmt: skip
    one = Measured(slice_, {"q_1": False})
    text = Report(config, ["3 of 10"], 2, one, [one]).markdown()
    assert "| held-back tools | 2 | 50.0 %" in text and "| BFCL simple | 1 | 0.0 %" in text
    assert "seed 77" in text and "3 of 10" in text and "torch" in text
    two = Report(config, ["", ""], 2, Measured(slice_, {}), [Measured(slice_, {})] * 2)
    assert "round 2" in two.markdown() and "BFCL" not in two.markdown()


# A whole run.


def _is_on(on: bool) -> str:
    """Tell."""
    return f"{on}"


def _flags(count: int, *, held_back: bool, seed: int) -> list[Task]:
    """Tasks that a model without any training does half of the time."""
    entry = Entry(_is_on, ("x",), {"on": "of a"})
    return [Task(f"flag-{n}", f"{held_back} {n}", entry, f"_is_on(on={n % 2 == 0})")
            for n in range(count)]  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder, config = tmp_path / "tiny", {"hidden_size": 16, "intermediate_size": 16}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=tiny_codec().special.silence, **config)
    LlamaForCausalLM(shape).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny_codec().tokenizer_json)
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    monkeypatch.setattr(Entry, "schema", schema | {"description": ""})
    monkeypatch.setattr(Entry, "source", "def _is_on(on):\n    return f'{on}'\n")
    monkeypatch.setattr(module, "tasks", _flags)
    monkeypatch.setattr(module, "plain_prompt", lambda request, *_: request)
    monkeypatch.setattr(module, "BATCH", 4)
    return str(folder)


def test_a_stopped_run_goes_on(model: str, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("llguidance")
    config = ImproveConfig(model=model, backend="transformers", problems=10, held_back=6,
                           samples=3, epochs=0.5, rank=2)  # fmt: skip
    asked: list[str] = []
    write = module._write

    def stopped(engine, problems, temperature, seeds):
        asked.extend(f"{problem.id} {temperature}" for problem in problems)
        if len(asked) > 12:
            raise KeyboardInterrupt
        return write(engine, problems, temperature, seeds)

    monkeypatch.setattr(module, "_write", stopped)
    folder = tmp_path / "run"
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        improve(config, folder, tell=told.append)
    assert any("left" in line for line in told)
    path = folder / "round-1" / "attempts.jsonl"
    done = path.read_text().splitlines()
    assert len(done) == 4
    path.write_text("\n".join(done) + '\n{"id": "flag-9", "att')  # as a kill leaves it
    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(ConfigError, match="another seed"):
        improve(ImproveConfig(**{**vars(config), "seed": 5}), folder, resume=True, tell=told.append)
    text = improve(config, folder, resume=True, tell=told.append)
    assert path.read_text().splitlines()[:4] == done
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [row["slice"] for row in metrics["rows"]] == ["held_back"]
    assert metrics["rows"][0]["items"] == 6 and metrics["learnt"] >= 1
    assert (folder / "report.md").read_text() == text
    assert (folder / "round-1" / "train" / "model" / "stretto.json").is_file()
    attempts = [a for line in path.read_text().splitlines() for a in json.loads(line)["attempts"]]
    assert len(attempts) == 30
    for line in map(json.loads, path.read_text().splitlines()):
        wanted = int(line["id"].split("-")[1]) % 2 == 0
        assert [a["good"] for a in line["attempts"]] == [
            json.loads(a["text"]) == {"on": wanted} for a in line["attempts"]
        ]
    again = improve(config, folder, resume=True, tell=told.append)  # nothing is left to do
    assert again == text


def test_command(model: str, tmp_path: Path, monkeypatch, capsys) -> None:
    seen = {}

    def run(config, output, *, resume, tell):
        seen.update(config=config, output=output, resume=resume)
        tell("half done")
        if resume:
            raise KeyboardInterrupt
        return "| table |\n"

    monkeypatch.setattr(module, "improve", run)
    command(model=model, output=tmp_path, rounds=2, seed=3)
    assert (seen["config"].rounds, seen["config"].seed, seen["output"]) == (2, 3, tmp_path)
    assert capsys.readouterr().out == "| table |\n"
    monkeypatch.setattr("sys.argv", ["stretto", "agent", "improve", "-o", "a b"])
    with pytest.raises(SystemExit) as stop:
        command(model=model, output=tmp_path, resume=True)
    assert stop.value.code == 130
    assert "go on with stretto agent improve -o 'a b' --resume" in capsys.readouterr().err


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="samples"):
        ImproveConfig(samples=0)
    with pytest.raises(ConfigError, match="temperature"):
        ImproveConfig(temperature=0)
