"""``stretto agent``: against an endpoint on this machine, whose answers are written beforehand."""

import io
import json
import sys

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")

from rich.console import Console

from benchmarks.endpoint import Endpoint
from stretto.agents.broker import Call
from stretto.agents.events import AgentEvent
from stretto.cli import agent_view, main
from stretto.cli.agent import _Rule, _Typed

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

TOOLS = '''
from stretto.agents.tool import tool

@tool(effect="read")
def stock(item: str) -> int:
    """How many there are."""
    return {"tea": 3}.get(item, 0)

@tool(effect="irreversible")
def order(item: str, n: int) -> str:
    """Order more."""
    return f"ordered {n} {item}"

more = order
'''
ANSWERS = [
    "I look.\n```python\nn = stock('tea')\nprint(n)\nn + 'x'\n```\n",
    "```python\nprint(order('tea', 5))\nanswer(n)\n```\n",
    "Not allowed.",
]


def call(*argv):
    with pytest.raises(SystemExit) as raised:
        main(["agent", *map(str, argv)])
    return raised.value.code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools.py").write_text(TOOLS)
    return tmp_path


@pytest.fixture
def endpoint():
    def answer(body):
        return ANSWERS[sum(m["role"] == "assistant" for m in body["messages"])]

    with Endpoint(answer=answer) as started:
        yield started


def options(endpoint):
    return ["--tools", "tools.py", "--base-url", endpoint.url, "--model", "mock",
            "--dialect", "code"]  # fmt: skip


def test_run_replay_and_go_on(folder, endpoint, capsys):
    assert call("run", "Keep tea", *options(endpoint), "--folder", "r") == 0
    out = capsys.readouterr()
    lines = [line.split(maxsplit=2)[2] for line in out.out.splitlines()]
    lanes = [line.split(maxsplit=1) for line in lines]
    assert lanes[0] == ["user", "Keep tea"] and lanes[1] == ["say", "I look."]
    assert ["result", 'stock(item="tea") -> 3'] in lanes
    assert any(text.startswith("line 3: TypeError: unsupported") for _, text in lanes)
    assert ["result", 'order(item="tea", n=5) -> "ordered 5 tea"'] in lanes
    assert lanes[-1] == ["say", "[answered] 3"] and "the run is in r" in out.err
    asked = len(endpoint.asked)
    assert call("replay", "r") == 0
    assert "events came out as they were" in capsys.readouterr().err
    assert call("run", "Keep tea", *options(endpoint), "--folder", "r", "--json") == 0  # it is over
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[-1]["kind"] == "end" and events[0]["data"]["scripted"] is False
    assert len(endpoint.asked) == asked == 2
    record = folder / "r" / "events.jsonl"
    record.write_text(record.read_text().replace('"stdout": "3', '"stdout": "4'))
    assert call("replay", "r", "--json") == 1
    assert "stdout was '4\\n' and is '3\\n'" in capsys.readouterr().err


def test_calls_that_the_endpoint_tells(folder, capsys):
    def answer(body):
        if body["messages"][-1]["role"] == "tool":
            return f"There are {body['messages'][-1]['content']}."
        assert [each["function"]["name"] for each in body["tools"]] == ["stock", "order"]
        call = {"id": "c1", "type": "function",
                "function": {"name": "stock", "arguments": '{"item": "tea"}'}}  # fmt: skip
        return {"content": None, "tool_calls": [call]}

    with Endpoint(answer=answer, fails=["500"]) as endpoint:
        assert call("run", "How much tea?", *options(endpoint)[:-1], "json", "--folder", "r") == 0
    out = capsys.readouterr().out
    assert 'stock(item="tea") -> 3' in out and "[answered] There are 3." in out
    assert call("replay", "r") == 0


def test_limits_and_denial(folder, endpoint, capsys):
    assert call("run", "Keep tea", *options(endpoint), "--turns", 1) == 1
    assert "[limit: turns] I look." in capsys.readouterr().out
    assert len(list((folder / "runs").iterdir())) == 1
    assert call("run", "Keep tea", *options(endpoint), "--authorise", "deny") == 0
    out = capsys.readouterr().out
    assert "tool order: denied (--authorise deny); do without it" in out
    assert "[answered] Not allowed." in out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--tools", "nosuch"], "nosuch: cannot be loaded (ModuleNotFoundError"),
        (["--tools", "nosuch.py"], "nosuch.py: no such file"),
        (["--tools", "bad.py"], "bad.py: cannot be loaded (ZeroDivisionError: division by zero)"),
        (["--tools", "string"], "string: no tools; mark functions with @tool"),
        (["--tools", "tools.py", "--turns", "3"], "--turns, tokens, seconds, calls: only with"),
        (["--tools", "tools.py", "--dialect", "code"], "--dialect: only with --base-url"),
        (["--tools", "tools.py", "--base-url", "http://x"], "--base-url needs --model"),
        (["--tools", "tools.py", "--base-url", "http://x", "--model", "m", "--api-key-env", "NONE"],
         "--api-key-env NONE: there is no such environment variable"),
        (["--tools", "tools.py", "--dollars", "1"], "--dollars needs --prices"),
        (["--tools", "tools.py", "--turns", "0"], "limit turns is 0"),
    ],
)  # fmt: skip
def test_errors_are_one_line(folder, capsys, argv, told):
    (folder / "bad.py").write_text("1 / 0\n")
    assert call("run", "x", *argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("stretto: ") and told in err and err.count("\n") == 1


def test_replay_of_nothing(folder, capsys):
    assert call("replay", "none") == 2
    assert "no run 'none', neither as a folder nor in runs" in capsys.readouterr().err


def test_the_rule_of_authorise():
    from stretto.agents.tool import Tool

    read, write = (Tool(lambda: 1, name="x", doc="x", effect=e) for e in ("read", "write"))
    assert _Rule("ask")(Call("x"), read).verdict == "allow"
    assert _Rule("ask")(Call("x"), write).verdict == "ask"
    assert _Rule("deny")(Call("x"), write).verdict == "deny"


START = AgentEvent(0, 0.0, "user", "start", {"task": "T\x1b[2J", "scripted": True, "model": "m",
                                             "dialect": "code"})  # fmt: skip
EVENTS = [
    START,
    AgentEvent(1, 0.1, "think", "text", {"text": "hm\n"}),
    AgentEvent(2, 0.2, "code", "statement", {"source": "x = 1", "effect": "pure", "index": 0}),
    AgentEvent(3, 0.3, "result", "feedback", {"source": "dialect", "text": "[result]\nerror: so"}),
    AgentEvent(4, 0.4, "say", "end", {"outcome": "limit", "reason": "turns", "answer": "part"}),
]


def test_lanes_on_a_terminal():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=30, color_system=None)
    view = agent_view.open_view(console)
    assert isinstance(view, agent_view.LiveView)

    class Deaf:
        said = None

        def interrupt(self, text):
            self.said = text

    with view:
        typed = _Typed(Deaf(), view)
        for event in EVENTS:
            view.take(event)
        typed.on_typed("wai")
        typed.on_line("wait")
        assert typed._agent.said == "wait"
    shown = out.getvalue()
    assert "answers written beforehand" in shown and "x = 1" in shown and "T\x1b[2J" not in shown
    assert "turn 0" in shown and "[limit: turns] part" in shown


def test_lines_tell_that_no_model_took_part():
    out = io.StringIO()
    with agent_view.open_view(Console(file=out)) as view:
        for event in EVENTS:
            view.take(event)
    first, *rest = out.getvalue().splitlines()
    assert first == "no model takes part: the answers were written beforehand"
    assert rest[1] == "   0.10 s  think   hm" and "\x1b" not in out.getvalue()
