"""The live agent on scripted streams, in virtual time, with a stand-in for the sandbox."""

import asyncio
import json
import random

import pytest

pytest.importorskip("benchmarks.unsafe_fake")  # not in an installed package
import itertools

from benchmarks.unsafe_fake import UnsafeFakeSession
from benchmarks.virtual_time import run
from stretto.agents.live import IDLE_ROWS, LiveAgent, LiveLimits, LiveStreams
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Policy, Sandbox
from stretto.agents.scripted_streams import SPECIAL, ScriptedRow, ScriptedSession, ScriptedStreams
from stretto.agents.tool import Tool
from stretto.errors import ConfigError, InputError
from stretto.runs import Run
from stretto.streams import READ, Stream, StreamSet, StreamTable


class FakeCells(UnsafeFakeSession):
    async def fork(self, *, on_call=None):
        copy = await super().fork(on_call=on_call)
        copy.__class__ = FakeCells
        return copy

    async def cancel(self, level):
        pass  # what runs here cannot be stopped but by its caller


class FakeBox(Sandbox):
    name, policy = "fake", Policy()

    def __init__(self):
        self.living = [0]

    async def open_session(self, *, tools=(), on_call=None, policy=None):
        return FakeCells(tools, on_call, living=self.living)

    async def close(self):
        pass


class World:
    """What the tools do."""

    def __init__(self, seconds=0.1):
        self.reads, self.writes = [], []

        async def search(what: str) -> str:
            self.reads.append(what)
            await asyncio.sleep(seconds)
            return f"found {what}"

        async def send(what: str) -> str:
            self.writes.append(what)
            return f"sent {what}"

        self.registry = Registry([Tool(search, effect="read"), Tool(send, effect="write")])


def agent_of(parts, world, rate=50.0, **options):
    model = ScriptedStreams(parts, rate=rate)
    box = FakeBox()
    return LiveAgent(model, world.registry, sandbox=box, **options), model, box


def perform(parts, world=None, **options):
    world = world or World()
    agent, model, box = agent_of(parts, world, **options)
    result = run(agent.run("go"))
    assert box.living == [0], "a session was left open"
    assert [event.seq for event in result.events] == list(range(len(result.events)))
    return result, world, model.sessions[0]


def told(session):
    """Messages of the result stream."""
    return "".join(text for stream, text in session.heard if stream == "result")


def times(result, kind, **wanted):
    return [
        event.time
        for event in result.events
        if event.kind == kind and wanted.items() <= event.data.items()
    ]


def test_it_thinks_and_speaks_while_its_code_runs():
    thoughts = "x" * 400
    code = "a = search('one')\nprint(a)\n"
    result, world, session = perform(
        [{"think": thoughts, "say": "A moment.", "code": code}, {"say": "It is one."}], World(1.0)
    )
    assert result.outcome == "answered" and result.scripted
    assert result.answer == "A moment.\nIt is one."
    assert told(session) == "found one\n" and world.reads == ["one"]
    rows = [event.time for event in result.events if event.stream == "think" and event.data["text"]]
    gaps = [b - a for a, b in itertools.pairwise(rows)]
    assert max(gaps) == pytest.approx(0.02) and len(rows) == 100  # no row waited for the call
    came = times(result, "output", index=1)[0]
    assert rows[0] < came < rows[-1] and came == pytest.approx(1.0 + times(result, "statement")[0])


def test_nothing_is_written_before_the_end_of_the_block():
    code = "send('one')\n" + "y = [1]\n" * 20
    result, world, session = perform([{"code": code}, {"say": "Done."}])
    (commit,), (held,), (call,) = (times(result, kind) for kind in ("commit", "held", "call"))
    assert held < commit <= call and world.writes == ["one"]
    assert told(session) == "'sent one'\n"


def test_a_block_without_output_is_answered_too():
    _, _, session = perform([{"code": "x = 1\n"}, {"code": "x + 1\n"}, {"say": "Two."}])
    assert told(session) == "ok2\n"


def test_an_error_is_told_at_once_and_the_rest_is_not_run():
    code = "x = 1\nx.foo\nsend('never')\n" + "y = search('never')\n" * 20 + "y = 1\n" * 25
    parts = [
        {"code": code, "think": "t" * 900},
        {"say": "Sorry."},
        {"code": "print(x)\nsend('after')\n"},
    ]
    world = World()
    agent, model, _ = agent_of(parts, world)

    async def work():
        task = asyncio.create_task(agent.run("go"))
        await asyncio.sleep(1.5)  # the block is still being written
        assert told(model.sessions[0]).startswith("AttributeError")
        await asyncio.sleep(2.0)
        agent.interrupt("go on")
        return await task

    result, session = run(work()), model.sessions[0]
    assert world.writes == ["after"] and world.reads == []
    error = "AttributeError: 'int' object has no attribute 'foo' (line 2)"
    assert told(session).startswith(error) and told(session).endswith("1\n'sent after'\n")
    ended = [e.time for e in result.events if e.stream == "code" and e.data.get("end")]
    assert times(result, "output", ok=False)[0] < ended[0]


def test_code_that_cannot_be_parsed_is_told():
    code = "x = search('one')\nprint(x\ny = 2)\nsend('no')\n"
    _, world, session = perform([{"code": code}, {"say": "Sorry."}])
    assert world.writes == [] and "SyntaxError" in told(session) and "(line 2)" in told(session)


def test_a_second_block_waits_for_the_first_and_not_the_model():
    world = World(2.0)
    # Two messages of code: the second part begins when somebody interrupts.
    parts = [{"code": "a = search('one')\n"}, {"code": "print(a)\n", "say": "Well."}]
    agent, model, _ = agent_of(parts, world)

    async def work():
        task = asyncio.create_task(agent.run("go"))
        await asyncio.sleep(0.5)
        agent.interrupt("and?")
        return await task

    result = run(work())
    assert told(model.sessions[0]) == "okfound one\n"
    assert [e.data["text"] for e in result.events if e.kind == "interrupt"] == ["and?"]
    said = [e.time for e in result.events if e.stream == "say" and e.data["text"]]
    assert said[0] < 1.0 and ("user", "and?") in model.sessions[0].heard


def test_limits():
    loop = {"code": "print(1)\n", "say": "again "}
    result, _, session = perform([loop] * 100, limits=LiveLimits(rows=40))
    assert result.outcome == "limit" and session.finish_reason == "rows"
    assert result.events[-1].data["reason"] == "rows" and len(result.table) == 40
    result, world, _ = perform([{"code": "search('x')\n"}], World(60), limits=LiveLimits(seconds=3))
    assert result.outcome == "limit" and result.events[-1].data["reason"] == "seconds"
    assert result.events[-1].time < 5 and world.reads == ["x"]
    code = "search('1')\nsearch('2')\nsearch('3')\n"
    result, world, session = perform(
        [{"code": code}, {"say": "Enough."}], limits=LiveLimits(calls=2)
    )
    assert len(world.reads) == 2 and "budget of 2 calls" in told(session)
    for bad in ({"rows": 0}, {"seconds": 0}, {"calls": -1}):
        with pytest.raises(ConfigError, match="give at least 1 row"):
            LiveLimits(**bad)


def test_cancel_abandons_what_is_not_committed():
    world = World(30)
    agent, model, box = agent_of([{"code": "x = search('1')\nsend(x)\n", "say": "Hm"}], world)

    async def work():
        task = asyncio.create_task(agent.run("go"))
        await asyncio.sleep(0.9)
        await agent.cancel()
        return await task

    result = run(work())
    assert result.outcome == "cancelled" and world.writes == [] and box.living == [0]
    assert model.sessions[0].finish_reason == "cancelled"


def test_leaving_the_events_ends_the_run():
    agent, model, box = agent_of([{"code": "search('1')\n", "think": "a" * 400}], World(9))

    async def work():
        events = agent.stream("go")
        async for event in events:
            if event.kind == "statement":
                break
        await events.aclose()
        assert box.living == [0] and model.sessions[0].finish_reason is not None
        with pytest.raises(InputError, match="nothing is running"):
            agent.interrupt("hello?")
        return await agent.run("again")

    assert run(work()).outcome == "failed"  # nothing was said


def test_one_run_at_a_time():
    agent, _, _ = agent_of([{"say": "Hello."}], World())

    async def work():
        task = asyncio.create_task(agent.run("go"))
        await asyncio.sleep(0.02)
        with pytest.raises(InputError, match="at work"):
            await agent.run("go")
        return await task

    assert run(work()).answer == "Hello."


def test_streams_that_are_missing_or_named_otherwise():
    with pytest.raises(InputError, match="no input stream 'result' for result among user, answer"):
        run(LiveAgent(ScriptedStreams([], streams=READ), Registry(), sandbox=FakeBox()).run("go"))
    other = StreamSet([Stream("ask", "input"), Stream("seen", "input"), Stream("python", "output")])
    model = ScriptedStreams([{"python": "1 + 1\n"}], streams=other)
    names = LiveStreams(user="ask", result="seen", code="python")
    agent = LiveAgent(model, Registry(), sandbox=FakeBox(), streams=names, prompts={})
    result = run(agent.run("go"))
    assert ("seen", "2\n") in model.sessions[0].heard and result.outcome == "failed"


def test_the_run_folder_has_everything(tmp_path):
    world = World()
    parts = [{"code": "print(search('x'))\nsend('y')\n", "say": "Hm."}, {"say": "Yes."}]
    agent, _, _ = agent_of(parts, world)
    result = run(agent.run("go", folder=tmp_path / "run"))
    saved = list(Run.open(tmp_path / "run").events())
    kept = [event for event in saved if "seq" in event]
    assert [event["type"] for event in saved if "seq" not in event] == ["created", "finished"]
    assert [(e["seq"], e["type"], e["stream"]) for e in kept] == [
        (e.seq, e.kind, e.stream) for e in result.events
    ]
    assert kept[0]["data"]["scripted"] is True and kept[-1]["data"]["answer"] == "Hm.\nYes."
    call = next(event["data"] for event in kept if event["type"] == "call")
    assert (call["tool"], call["value"], call["ok"]) == ("search", "found x", True)
    line = (tmp_path / "run" / "table.jsonl").read_text()
    assert StreamTable.from_jsonl(line) == result.table
    with pytest.raises(InputError, match="holds a run already"):
        run(agent.run("go", folder=tmp_path / "run"))


class Silent(ScriptedStreams):
    """Never rests: where others have ended, it is silent for ever."""

    def open(self, **options):
        session = SilentSession(self, {})
        self.sessions.append(session)
        return session


class SilentSession(ScriptedSession):
    def _step(self, now):
        row = super()._step(now)
        if row is not None and row.tokens.get("think") == SPECIAL.end:
            row.tokens["think"] = SPECIAL.silence
        if row is None and not self._closed and self.finish_reason is None:
            row = ScriptedRow(len(self._rows), {"think": SPECIAL.silence}, {}, now)
            self._rows.append(row)
        return row


def test_endless_silence_is_closed():
    model = Silent([{"say": "Hello."}], rate=50)
    result = run(LiveAgent(model, Registry(), sandbox=FakeBox()).run("go"))
    assert result.outcome == "answered" and IDLE_ROWS <= len(result.table) < IDLE_ROWS + 10


class Late(ScriptedStreams):
    """Begins to write code when all had seemed to be over."""

    def open(self, **options):
        session = LateSession(self, {})
        self.sessions.append(session)
        return session


class LateSession(ScriptedSession):
    def _step(self, now):
        row = super()._step(now)
        if row is None and self.finish_reason is None and len(self._rows) < 2 * IDLE_ROWS:
            row = ScriptedRow(len(self._rows), {"think": SPECIAL.silence}, {}, now)
            self._rows.append(row)
            if len(self._rows) == 2 * IDLE_ROWS - 3:
                assert self._closed
                self._rests["code"] = False
                self._queued["code"] += ["print(1)\n"]
        return row


def test_what_comes_after_the_close_is_run_and_told():
    model = Late([], rate=50)
    result = run(LiveAgent(model, Registry(), sandbox=FakeBox()).run("go"))
    assert told(model.sessions[0]) == "1\n" and model.sessions[0].finish_reason == "end"
    assert [e.data["stdout"] for e in result.events if e.kind == "output"] == ["1\n"]


def test_what_is_known_of_names_lasts():
    parts = [{"code": "def f(x):\n    return x + 1\n\nz = 1\n"},
             {"code": "print(f(1))\n" + "y = 1\n" * 20}, {"say": "Two."}]  # fmt: skip
    result, _, _ = perform(parts)
    early = times(result, "output", stdout="2\n")[0]
    assert early < times(result, "commit", block=1)[0] and not times(result, "held")


def test_a_defect_of_ours_is_not_hidden():
    def show(stdout, value):
        raise KeyError("defect")

    agent, _, _ = agent_of([{"code": "print(1)\n"}], World(), show=show)
    with pytest.raises(KeyError, match="defect"):
        run(agent.run("go"))


# Random programs, rates, delays and interruptions.

LINES = [
    "print({i})",
    "x = search('{i}')",
    "print(search('{i}'))",
    "send('{i}')",
    "{i} + 1",
    "y = {i}",
    "raise ValueError('{i}')",
    "for k in range(2):\n    print(k + {i})",
]


def program(rng, number):
    weights = [3, 3, 3, 3, 2, 2, 1, 2]
    lines = rng.choices(LINES, weights, k=rng.randint(0, 7))
    return "".join(line.format(i=100 * number + i) + "\n" for i, line in enumerate(lines))


def expected(blocks):
    """What the model hears, and what is written: by running the blocks one after another."""
    heard, writes = [], []
    for block in blocks:
        text, failed = "", False
        for number, line in enumerate(block.splitlines(), start=1):
            inner = line.split("(", 1)[-1].rstrip(")").strip("'")
            if line.startswith("raise"):
                text, failed = text + f"ValueError: {inner.strip(chr(39))} (line {number})", True
                break
            if line.startswith("print(search"):
                text += f"found {line.split(chr(39))[1]}\n"
            elif line.startswith("print("):
                text += f"{inner}\n"
            elif line.startswith("send"):
                writes.append(inner)
                text += f"'sent {inner}'\n"
            elif line.startswith("for"):
                i = int(block.splitlines()[number].split("+ ")[1].rstrip(")"))
                text += f"{i}\n{i + 1}\n"
            elif line[0].isdigit():
                text += f"{int(line.split()[0]) + 1}\n"
        heard.append(text or ("" if failed else "ok"))
    return "".join(heard), writes


def messages(table, name):
    pieces = table.meta["pieces"]
    return ["".join(pieces[t] for t in m) for m in table.messages(name) if m]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_timing_the_same_is_told_and_written(seed):
    rng = random.Random(seed)
    world = World(rng.choice([0.0, 0.01, 0.3, 2.0]))
    parts = [{"code": program(rng, n), "say": "word " * rng.randint(0, 9),
              "think": "t" * rng.randint(0, 60)} for n in range(rng.randint(1, 5))]  # fmt: skip
    agent, model, box = agent_of(parts, world, rate=rng.choice([20, 100, 1000]))
    model.size = rng.randint(1, 9)
    events = []

    async def work():
        async def speak():
            for number in range(rng.choice([0, 0, 1, 2])):
                await asyncio.sleep(rng.random())
                agent.interrupt(f"wait {number}")

        speaking = asyncio.create_task(speak())
        async for event in agent.stream("go"):
            events.append(event)
        await asyncio.gather(speaking, return_exceptions=True)  # the run may have been over
        return agent.result

    result = run(work())
    session = model.sessions[0]
    heard, writes = expected(messages(result.table, "code"))
    assert told(session) == heard and world.writes == writes
    assert tuple(events) == result.events and box.living == [0]
    assert [event.seq for event in events] == list(range(len(events)))
    said = "".join(e.data["text"] for e in events if e.stream == "say")
    assert said == "".join(messages(result.table, "say"))
    calls = [event.data["arguments"]["what"] for event in events if event.kind == "call"]
    assert sorted(calls) == sorted(world.reads + world.writes)
    # A write needs the commit of its block.
    committed = False
    for event in events:
        committed = event.kind == "commit" or (committed and event.kind != "statement")
        if event.kind == "call" and event.data["tool"] == "send":
            block = max(e.data["block"] for e in events[: event.seq] if e.kind == "commit")
            assert f"'{event.data['arguments']['what']}'" in messages(result.table, "code")[block]
    json.dumps([event.to_json() for event in events])  # JSON values only


def test_scripted_streams_refuse_what_they_do_not_have():
    with pytest.raises(InputError, match="no output stream 'song'"):
        ScriptedStreams([{"song": "la"}])
    session = ScriptedStreams([{"say": "Hello"}]).open()
    with pytest.raises(InputError, match="no input stream 'say'"):
        session.send("say", "x")
    session.send("user", "hi", end=True)
    assert "".join(row.text.get("say", "") for row in session.iter()) == "Hello"
    session.close()
    with pytest.raises(InputError, match="is closed"):
        session.send("user", "x")
    session.cancel()
    with pytest.raises(InputError, match="over"):
        session.interrupt("user", "x")
