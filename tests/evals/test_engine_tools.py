"""Tools on models of our own: a tiny random model is held to a call, which is really made."""

import asyncio
import json
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("llguidance")
from rich.console import Console

from stretto.agents.live import LiveLimits
from stretto.agents.registry import Registry
from stretto.agents.sandbox import NoSandboxError
from stretto.agents.tool import Tool
from stretto.cli import demo_agent
from stretto.engine import Engine
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import InputError
from stretto.evals.bfcl import Item
from stretto.evals.bfcl_live import fill_live, judge
from stretto.evals.demo_tools import House, demo_registry
from stretto.evals.engine_tools import OneCall, as_rows
from stretto.evals.local_agent import LocalAgent, LocalModels, Watcher
from stretto.evals.phrasing import phrase, prompt
from stretto.runs import Run
from stretto.streams import StreamTable
from stretto.streams.sets import AGENT, READ, SINGLE


@pytest.fixture(scope="module")
def models():
    lm = tiny_lm(AGENT)
    return LocalModels(Engine(lm, tiny_codec(), backend="transformers"), "tiny")


@pytest.fixture(scope="module")
def phraser():
    return Engine(tiny_lm(SINGLE), tiny_codec(), backend="transformers", stop_ids=(0,))


def perform(task, registry, models, folder=None, **options):
    options.setdefault("limits", LiveLimits(rows=330))
    try:
        return asyncio.run(LocalAgent(models, registry, **options).run(task, folder=folder))
    except NoSandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def registry(seen):
    def ring(bell: str) -> dict[str, object]:
        """Ring a bell."""
        seen.append(bell)
        if bell == "none":
            raise InputError("no such bell")
        return {"bell": bell, "rings": 2}

    return Registry([Tool(ring, effect="write")])


def test_a_tool_is_found_called_once_and_told(models, tmp_path):
    seen, rows, sessions = [], [], []
    watcher = Watcher(sessions.append, rows.append)
    result = perform("Ring bell 7.", registry(seen), models, watcher=watcher, folder=tmp_path / "r")
    (step,) = result.steps
    assert len(seen) == 1 and f'ring(bell="{seen[0]}")' == step.code  # and never again
    assert step.grammar.startswith('start: "ring("') and len(rows) == len(step.result.table)
    assert len(sessions) == 1 and sessions[0].finish_reason is not None
    told = json.dumps([{"bell": seen[0], "rings": "2"}], separators=(",", ":"))
    assert step.result.table.text("result") == told
    assert "\ntools: ring(bell)" in step.result.table.text("system", prompt=True)
    assert models.engine.replay(step.result.table) == step.result.table
    # One run, of one sort of events, whatever its parts.
    first, plan, *between, last = result.events
    assert (first.kind, first.data["model"], first.data["scripted"]) == ("start", "tiny", False)
    assert plan.data == {
        "part": 1, "request": "Ring bell 7.", "tools": ["ring"], "grammar": step.grammar
    }  # fmt: skip
    assert last.kind == "end" and {event.data["part"] for event in between} == {1}
    assert [event.seq for event in result.events] == list(range(len(result.events)))
    run = Run.open(tmp_path / "r")
    kept = [event for event in run.events() if "seq" in event]
    assert [event["type"] for event in kept] == [event.kind for event in result.events]
    assert run.status == "finished" and run.kind == "agent"
    table = StreamTable.from_jsonl((tmp_path / "r" / "table.jsonl").read_text())
    assert table == step.result.table


def test_parts_are_done_in_order_and_one_without_a_tool_is_refused(models):
    seen = []
    result = perform("Ring bell 7. Sing loudly. Ring bell 8.", registry(seen), models)
    assert [step.need.text for step in result.steps] == [
        "Ring bell 7.", "Sing loudly.", "Ring bell 8."
    ]  # fmt: skip
    assert [step.outcome for step in result.steps][1] == "refused" and result.outcome != "answered"
    assert result.steps[1].answer == "There is no tool for: Sing loudly." and len(seen) == 2
    assert result.answer.count("\n") >= 2


def test_somebody_speaks_or_leaves(models):
    seen = []
    agent = LocalAgent(models, registry(seen), limits=LiveLimits(rows=330))
    with pytest.raises(InputError, match="nothing is running"):
        agent.interrupt("hello?")

    async def work():
        events = agent.stream("Ring bell 7.")
        async for event in events:
            if event.kind == "text":
                agent.interrupt("now!")
            if event.kind == "interrupt":
                assert event.data["text"] == "now!"
                break
        await events.aclose()

    try:
        asyncio.run(work())
    except NoSandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    assert models.engine.stats().active == 0 and agent.result is None


def test_an_error_of_the_tool_is_the_answer(models):
    seen = []
    tools = registry(seen)
    tools.get("ring").schema["properties"]["bell"]["enum"] = ["none"]
    (step,) = perform('Ring the bell "none".', tools, models).steps
    assert step.outcome == "failed" and step.answer == "tool ring: InputError: no such bell"


def test_the_base_model_puts_the_result_into_words(models, phraser):
    pieces, seen = [], []
    both = replace(models, phraser=phraser)
    watcher = Watcher(on_phrase=pieces.append)
    (step,) = perform("Ring bell 7.", registry(seen), both, watcher=watcher).steps
    value = step.events("call")[0].data["value"]
    alone = asyncio.run(phrase(phraser, "Ring bell 7.", value))
    assert step.answer == alone == "".join(pieces).strip() != ""
    assert prompt("Ring\nit.", value).endswith(
        f"Question: Ring it.\nResult: bell: {value['bell']}, rings: 2\nAnswer:"
    )
    assert prompt("x", 4).endswith("Result: result: 4\nAnswer:")


def test_models_without_the_streams_are_refused():
    engine = Engine(tiny_lm(READ), tiny_codec(), backend="transformers")
    with pytest.raises(InputError, match="model tiny has no stream 'system'"):
        LocalModels(engine, "tiny")


def test_one_call_has_its_own_prompts(models):
    call = OneCall(models.engine, registry([]).get("ring"), "Ring.")
    for options in ({"prompts": {"system": "x"}}, {"sampling": 1}, {"limits": 1}):
        with pytest.raises(InputError, match="their own"):
            call.open(**options)


def test_results_as_the_model_was_taught_them():
    assert as_rows("", "{'a': 1, 'b': 'x'}") == '[{"a":"1","b":"x"}]'
    assert as_rows("", "[{'a': 1}, 2]") == '[{"a":"1"},{"result":"2"}]'
    assert as_rows("", "3.5") == '[{"result":"3.5"}]'
    assert as_rows("out\n", None) == "out\n" and as_rows("", "<object>") == "<object>"
    assert len(as_rows("", repr({"a": "x" * 1000}))) == 400


def test_the_demo_tools(tmp_path):
    tools = demo_registry(tmp_path)
    call = {tool.name: tool.call for tool in tools}
    assert call["convert_units"](value=26.2, unit="miles", into="kilometers")["value"] == 42.16
    assert call["convert_units"](value=1, unit="feet", into="inches")["value"] == 12
    assert call["find_city"](city="oslo")["country"] == "Norway"
    assert call["add_numbers"](a=0.1, b=0.2) == {"sum": 0.3}
    assert call["set_thermostat"](room="kitchen", degrees=21)["degrees"] == 21
    assert House().rooms["kitchen"] == 18
    assert call["write_note"](title="../A b!", text="c")["file"] == "a-b.txt"
    assert [path.name for path in tmp_path.iterdir()] == ["a-b.txt"]
    for name, arguments, why in (
        ("convert_units", {"value": 1, "unit": "mile", "into": "hour"}, "of one kind"),
        ("convert_units", {"value": 1, "unit": "mile", "into": "parsec"}, "no unit 'parsec'"),
        ("find_city", {"city": "Atlantis"}, "no city 'Atlantis'"),
        ("set_thermostat", {"room": "attic", "degrees": 20}, "no room 'attic'"),
        ("set_thermostat", {"room": "kitchen", "degrees": 300}, "from 5 to 30"),
    ):
        with pytest.raises(InputError, match=why):
            call[name](**arguments)


def test_bfcl_on_the_code_stream(models):
    function = {
        "name": "math.ring",
        "description": "Ring.",
        "parameters": {
            "type": "dict",
            "properties": {"the bell": {"type": "integer"}},
            "required": ["the bell"],
        },
    }
    items = [Item("1", "Ring bell 7.", function, {"the bell": [7]}),
             Item("2", "Ring bell 8.", function, {"the bell": [9]})]  # fmt: skip
    good, bad = fill_live(models.engine, items)
    assert good.text == "math_ring(the_bell=7)" and good.why == ""
    assert bad.why == "the bell: 8 is none of [9]"
    for text in ("", "math_ring(7", "math_ring(other=7)", "x = 1", "math_ring(the_bell=f())"):
        assert judge(items[:1], [text])[0].why


def test_the_demo_shows_what_happens(models, phraser, tmp_path, capsys):
    both = replace(models, phraser=phraser)
    console = Console(
        width=200, markup=False, highlight=False, soft_wrap=True, force_terminal=False
    )
    try:
        steps = asyncio.run(demo_agent.perform(both, ("Look up Oslo.", "Sing."), tmp_path, console))
    except NoSandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    out = capsys.readouterr().out
    assert [step.outcome for step in steps] == ["answered", "refused"]
    for told in (
        "request    Look up Oslo.", "retrieved  find_city", "forced     code may only be",
        'code    find_city(city="Oslo")', "called     find_city(city='Oslo'), allowed",
        "returned   {'city': 'Oslo', 'country': 'Norway', 'population': 717000}",
        "[the base model's words]", "time       code begins", "retrieved  no tool",
        "answer     There is no tool for: Sing.  [rule]",
    ):  # fmt: skip
        assert told in out, told
