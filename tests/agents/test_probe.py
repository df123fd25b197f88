"""Which dialect suits a model is found by asking it, once."""

import json

import pytest
from scripting import Script, sandboxed

from stretto.agents import probe
from stretto.agents.agent import Agent
from stretto.agents.registry import Registry
from stretto.errors import LimitError, StrettoError
from stretto.protocols import Completion, ToolCall

WANTED = dict(probe.ITEMS)


def test_there_are_twelve_questions():
    assert len(probe.ITEMS) == 12 == len(WANTED)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(probe, "ITEMS", probe.ITEMS[-4:])


class Pretender:
    """Stands for a model that has learnt one dialect, of four questions it knows the answer."""

    name, scripted, base_url = "pretender", False, "http://one"

    def __init__(self, dialect, knows=4):
        self.dialect, self.asked, self.knows = dialect, 0, list(WANTED)[-knows:]

    async def complete(self, messages, *, tools=(), **options):
        self.asked += 1
        request = messages[-1].content
        if request not in self.knows:
            return Completion("I do not know.")
        calls = WANTED[request]
        spoken = "json" if tools else "code" if "```python" in messages[0].content else "json-text"
        if spoken != self.dialect:
            return Completion("call weather and timer")
        if spoken == "code":
            lines = [f"{name}(**{arguments})" for name, arguments in calls]
            return Completion("```python\n" + "\n".join(lines) + "\n```")
        if spoken == "json":
            return Completion("", tool_calls=tuple(
                ToolCall(str(i), name, json.dumps(arguments))
                for i, (name, arguments) in enumerate(calls)
            ))  # fmt: skip
        return Completion(
            "\n".join(json.dumps({"name": name, "arguments": args}) for name, args in calls)
        )


def choose(model, folder, **options):
    return sandboxed(probe.choose_dialect(model, folder=folder, **options))


@pytest.mark.parametrize("dialect", probe.DIALECTS)
def test_the_dialect_it_speaks_is_chosen_and_kept(tmp_path, few, dialect):
    model = Pretender(dialect)
    assert choose(model, tmp_path) == dialect and model.asked == 12
    assert choose(model, tmp_path) == dialect and model.asked == 12
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert kept["scores"] == {name: 4 * (name == dialect) for name in probe.DIALECTS}
    assert (kept["model"], kept["endpoint"], kept["items"]) == ("pretender", "http://one", 4)


def test_results_belong_to_model_and_endpoint(tmp_path, few):
    model = Pretender("json", knows=1)
    assert choose(model, tmp_path) == "json"
    model.base_url = "http://two"
    model.dialect = "json-text"
    assert choose(model, tmp_path) == "json-text" and model.asked == 24
    model.dialect = "none"
    assert choose(model, tmp_path, again=True) == "code"  # of equal ones the first
    for path in tmp_path.iterdir():
        path.write_text("damaged")
    assert choose(model, tmp_path) == "code" and model.asked == 4 * 12


def test_scripted_models_are_not_asked(tmp_path):
    model = Script()
    assert choose(model, tmp_path) == "code" and model.asked == [] and not list(tmp_path.iterdir())


def test_an_endpoint_that_is_down_says_nothing_of_its_model(tmp_path, few):
    class Down(Pretender):
        async def complete(self, messages, **options):
            raise StrettoError("down")

    assert choose(Down("json"), tmp_path) == "code" and not list(tmp_path.iterdir())


def test_a_used_up_budget_is_told(tmp_path, few):
    class Poor(Pretender):
        async def complete(self, messages, **options):
            raise LimitError("the budget is used up")

    with pytest.raises(LimitError, match="the budget is used up"):
        choose(Poor("json"), tmp_path)


def test_the_agent_takes_what_was_chosen(tmp_path, few, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert choose(Pretender("json", knows=1), None) == "json"
    model = Pretender("json")
    result = sandboxed(Agent(model, Registry()).run("hello"))
    assert result.events[0].data["dialect"] == "json" and model.asked == 1
    assert not result.scripted
